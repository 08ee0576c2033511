#!/usr/bin/env python3
"""A second decoder of the exectrace format, written from docs/format.md and nothing else.

It prints the raw text form of a trace, as `exectrace dump FILE` does. Two decoders that agree show
that the page says enough to write one; `tests/python_decoder.rs` compares them.

Standard library only. Use: decoder.py FILE, or - for the standard input. With several files each
one's lines are followed by `end FILE STATUS`.
"""

import struct
import sys

MAGIC = b"\xeb\x58\x54\xf1"
HEADER = struct.Struct("<4sIBBHIQIIIIQQII")
HEADER_BYTES = 64
BATCH_BYTES_MAX = 65536
CRC_AT = 12
VERSION = 1
FIRST_SITE = 64
WORD = (1 << 64) - 1

BATCH_KINDS = {1: "session", 2: "definitions", 3: "events", 4: "control"}
EVENTS_BATCH = 3

TYPES = {
    "u64": 8, "i64": 9, "f64": 10, "bool": 16, "text": 11, "string": 24, "stack": 32,
    "task": 40, "thread": 48, "ticks": 56, "addr": 64, "kind": 72, "bytes": 19, "frames": 12,
    "list": 20, "fields": 13, "nanos": 80, "flags": 88,
}
TYPE_NAMES = {number: name for name, number in TYPES.items()}
ADDR, BOOL, TEXT, FRAMES = (TYPES[name] for name in ("addr", "bool", "text", "frames"))

# The static kinds of the phase Structure.
STRUCTURE = frozenset([*range(1, 16), 30, 31])

# The table of static kinds, as docs/format.md has it: kind, name, fields.
STATIC = """
1 Session format: u64, recorder: text, tick_shift: u64, tick_rate: u64, clock: u64, start: ticks, \
pid: u64, program: text, arch: text, mode: u64
2 Schema kind: kind, name: text, phase: u64, pair: text, fields: fields
3 String id: string, text: text
4 Stack id: stack, flags: flags, frames: frames
5 Site kind: kind, class: u64, flags: flags, name: string, module: string, file: string, \
line: u64, fields: fields
6 Thread thread: thread, tid: u64, creator: thread, name: text, function: text, entry: addr, \
registered: ticks
7 Module base: addr, size: u64, bias: addr, build_id: bytes, path: text, file_size: u64, mtime: u64
8 ThreadName thread: thread, at: ticks, name: text
9 ClockSnapshot at: ticks, mono_ns: u64, wall_ns: u64, boot_ns: u64, error: ticks
10 GenerationEnd generation: u64, at: ticks, late: list
11 Loss thread: thread, cause: u64, count: u64
12 ThreadState thread: thread, tid: u64, name: text, at: ticks, state: u64, task: task, spans: list
13 TaskState task: task, parent: task, kind: kind, begun: ticks
14 End at: ticks, events: u64, lost: u64, threads: u64, generations: u64, batches: u64, \
pause_max: nanos, reason: u64
15 Note name: text, text: text
16 ThreadStart
17 ThreadEnd
18 ThreadCreate thread: thread, stack: stack
19 Wait op: u64, object: u64, result: u64, error: u64, began: u64, stack: stack
20 Wake op: u64, object: u64, woken: u64, began: u64, stack: stack
21 Descriptor fd: u64, text: text
22 Process step: u64, pid: u64, text: text
23 Usage voluntary: u64, involuntary: u64, user: nanos, system: nanos
24 SwitchOut preempted: bool
25 SwitchIn cpu: u64
26 Sample cpu: u64, stack: stack
27 RunDelay ran: nanos, waited: nanos, turns: u64
28 Memory resident: u64, shared: u64, peak: u64, minor_faults: u64, major_faults: u64
30 Coverage thread: thread, at: ticks, switches: u64, faults: u64, slept: u64, longer: u64, \
longer_time: nanos, over: nanos, blocked: nanos, waited: nanos
31 Blocked thread: thread, op: u64, object: u64, since: ticks, stack: stack, by: u64
32 State task: task, spans: list, deeper: u64
33 SpanEnd
34 SpanEndAt depth: u64
35 TaskSwitch task: task
36 TaskEnd task: task
"""

def static_kinds():
    """The table above as {kind: (name, [(field name, type number)])}."""
    kinds = {}
    for line in STATIC.strip().splitlines():
        number, name, *rest = line.split(" ", 2)
        fields = []
        for field in rest[0].split(", ") if rest else []:
            field_name, type_name = field.split(": ")
            fields.append((field_name, TYPES[type_name]))
        kinds[int(number)] = (name, fields)
    return kinds


def crc_table():
    """CRC-32C of every sixteen bits, so that two bytes cost one look."""
    bytewise = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        bytewise.append(byte)
    table = []
    for pair in range(65536):
        crc = pair >> 8 ^ bytewise[pair & 255]
        table.append(crc >> 8 ^ bytewise[crc & 255])
    return bytewise, table


CRC_BYTES, CRC_PAIRS = crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    pairs = CRC_PAIRS
    even = len(data) & ~1
    for pair in struct.unpack("<%dH" % (even // 2), data[:even]):
        crc = pairs[(crc ^ pair) & 0xFFFF] ^ crc >> 16
    for byte in data[even:]:
        crc = CRC_BYTES[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283


class Malformed(Exception):
    """A value is cut off or too large."""


class UnknownKind(Exception):
    """Nothing in the trace describes the kind, or a later version does."""


class Refused(Exception):
    """This is no trace, or one of a later version."""


class Text:
    """Bytes, and the length that they had before they were cut, or None."""

    def __init__(self, data, cut_from):
        self.data = data
        self.cut_from = cut_from


class Body:
    """The bytes of a batch behind its header, and how far they are read."""

    def __init__(self, data):
        self.data = data
        self.at = 0

    def left(self):
        return len(self.data) - self.at

    def varint(self):
        value = shift = 0
        for length in range(10):
            if self.at >= len(self.data):
                raise Malformed("the batch ends inside a varint")
            byte = self.data[self.at]
            self.at += 1
            if length == 9 and byte > 1:
                raise Malformed("a varint above 64 bits")
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise Malformed("a varint of more than ten bytes")

    def zigzag(self):
        value = self.varint()
        return value >> 1 ^ -(value & 1)

    def take(self, length):
        if length > self.left():
            raise Malformed("a length beyond the batch")
        self.at += length
        return self.data[self.at - length:self.at]

    def text(self):
        head = self.varint()
        data = self.take(head >> 1)
        return Text(data, self.varint() if head & 1 else None)

    def numbers(self):
        count = self.varint()
        if count > self.left():
            raise Malformed("a list beyond the batch")
        numbers = []
        number = 0
        for _ in range(count):
            number = number + self.zigzag() & WORD
            numbers.append(number)
        return numbers

    def fields(self):
        count = self.varint()
        if count > self.left():
            raise Malformed("a list beyond the batch")
        return [(self.text(), self.varint()) for _ in range(count)]

    def value(self, type_number):
        shape = type_number & 7
        if shape == 0:
            return self.varint()
        if shape == 1:
            return self.zigzag()
        if shape == 2:
            return self.take(8)
        if shape == 3:
            return self.text()
        if shape == 4:
            return self.numbers()
        if shape == 5:
            return self.fields()
        raise UnknownKind("a shape of a later version")


# The text form.

ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
HIDDEN = ((0x80, 0x9F), (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160),
          (0x17B4, 0x17B5), (0x180B, 0x180F), (0x200B, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F),
          (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB),
          (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF))


def escape_one(char):
    code = ord(char)
    if char in ESCAPES:
        return ESCAPES[char]
    if code < 32 or code == 127:
        return "\\x%02x" % code
    # How Python carries a byte that is no UTF-8.
    if 0xDC80 <= code <= 0xDCFF:
        return "\\x%02x" % (code - 0xDC00)
    if any(low <= code <= high for low, high in HIDDEN):
        return "\\u{%x}" % code
    return char


def escape(data):
    return "".join(map(escape_one, data.decode("utf-8", "surrogateescape")))


def with_cut(shown, text):
    return shown if text.cut_from is None else "%s..%d" % (shown, text.cut_from)


def show_number(type_number, number):
    if type_number in (ADDR, FRAMES):
        return "0x%x" % number
    if type_number == BOOL and number < 2:
        return ("false", "true")[number]
    return str(number)


def show(type_number, value):
    shape = type_number & 7
    if shape == 2:
        return "0x%016x" % int.from_bytes(value, "little")
    if shape == 3:
        if type_number == TEXT:
            return with_cut('"%s"' % escape(value.data), value)
        return with_cut("#" + value.data.hex(), value)
    if shape == 4:
        return "[%s]" % ",".join(show_number(type_number, number) for number in value)
    if shape == 5:
        shown = ("%s:%s" % (escape(name.data), TYPE_NAMES.get(kind, kind)) for name, kind in value)
        return "{%s}" % ",".join(shown)
    return show_number(type_number, value)


class Epoch:
    """The tables of one table epoch, as far as they were met."""

    def __init__(self):
        self.strings = {}
        self.sites = {}

    def label(self, string):
        if string == 0:
            return "-"
        text = self.strings.get(string)
        return "?%d" % string if text is None else '"%s"' % escape(text.data)


class Header:
    def __init__(self, data):
        (self.magic, self.length, self.kind, self.lane, self.version, self.crc, self.session,
         self.epoch, self.generation, self.thread, self.sequence, self.first, self.last,
         self.count, self.flags) = HEADER.unpack(data)

    def line(self, offset):
        kind = BATCH_KINDS.get(self.kind, self.kind)
        return (
            f"batch {self.sequence_in_file} offset={offset} length={self.length} kind={kind}"
            f" lane={self.lane} version={self.version} session={self.session:016x}"
            f" epoch={self.epoch} generation={self.generation} thread={self.thread}"
            f" sequence={self.sequence} first={self.first} last={self.last} count={self.count}"
            f" flags={self.flags}"
        )


class Dump:
    """Walks over a trace and yields the lines of its raw text form."""

    def __init__(self, data):
        self.data = data
        self.static = static_kinds()
        self.batches = 0
        self.session = None
        self.forget()

    def forget(self):
        """A session begins: nothing is known."""
        self.schema = {}
        self.epochs = {}

    def fault(self, at):
        """What is wrong with the batch at this offset; None where nothing is."""
        data = self.data
        left = len(data) - at
        if data[at:at + 4] != MAGIC[:left]:
            return "magic"
        if left < 8:
            return "truncated"
        length = struct.unpack_from("<I", data, at + 4)[0]
        if not HEADER_BYTES <= length <= BATCH_BYTES_MAX:
            return "length"
        if left < length:
            return "truncated"
        batch = bytearray(data[at:at + length])
        batch[CRC_AT:CRC_AT + 4] = bytes(4)
        if crc32c(batch) != struct.unpack_from("<I", data, at + CRC_AT)[0]:
            return "crc"
        return None

    def next_batch(self, at):
        """The offset of the next batch that can be believed, or the end."""
        while True:
            at = self.data.find(MAGIC, at)
            if at < 0:
                return len(self.data)
            if self.fault(at) is None:
                return at
            at += 1

    def lines(self):
        at = 0
        while at < len(self.data):
            fault = self.fault(at)
            if fault:
                end = self.next_batch(at + 1)
                if at == 0 and end == len(self.data):
                    if fault == "magic":
                        raise Refused("this is no trace")
                    if end >= HEADER_BYTES and Header(self.data[:HEADER_BYTES]).version > VERSION:
                        raise Refused("the trace is of a later version")
                yield "damage offset=%d length=%d %s" % (at, end - at, fault)
                at = end
                continue
            header = Header(self.data[at:at + HEADER_BYTES])
            if header.version > VERSION:
                raise Refused("the trace is of version %d" % header.version)
            if header.version == 0:
                yield "damage offset=%d length=%d version" % (at, header.length)
            else:
                yield from self.batch(at, header)
            at += header.length

    def batch(self, at, header):
        if header.kind == 1 or header.session != self.session:
            self.session = header.session
            self.forget()
        header.sequence_in_file = self.batches
        self.batches += 1
        yield header.line(at)
        if header.kind not in BATCH_KINDS:
            return
        body = Body(self.data[at + HEADER_BYTES:at + header.length])
        epoch = self.epochs.setdefault(header.epoch, Epoch())
        while body.left():
            begin = body.at
            try:
                yield self.event(body, header.kind == EVENTS_BATCH, epoch)
            except Malformed:
                fault = "event"
            except UnknownKind:
                fault = "kind"
            else:
                continue
            offset = at + HEADER_BYTES + begin
            yield "damage offset=%d length=%d %s" % (offset, len(body.data) - begin, fault)
            return

    def event(self, body, timed, epoch):
        kind = body.varint()
        if kind in self.static:
            # Structural and timed events do not mix.
            if timed and kind in STRUCTURE:
                raise UnknownKind
            if not timed and kind not in STRUCTURE:
                raise Malformed
            name, fields = self.static[kind]
            shown = name
        elif timed and kind in epoch.sites:
            name, fields = epoch.sites[kind]
            shown = "site %d %s" % (kind, epoch.label(name))
        elif kind in self.schema:
            name, fields = self.schema[kind]
            shown = 'kind %d "%s"' % (kind, escape(name.data))
        else:
            raise UnknownKind
        parts = [shown]
        values = []
        for name, type_number in fields:
            value = body.value(type_number)
            values.append(value)
            parts.append("%s=%s" % (name, show(type_number, value)))
        if timed:
            parts.insert(0, "+%d" % body.varint())
        else:
            self.define(kind, values, epoch)
        return "  " + " ".join(parts)

    def define(self, kind, values, epoch):
        """Remembers what later events need; an id's first definition stands."""
        if kind == 2:
            defined, name, _phase, _pair, fields = values
            self.schema.setdefault(defined, (name, named(fields)))
        elif kind == 3:
            epoch.strings.setdefault(values[0], values[1])
        elif kind == 5:
            defined, _class, _flags, name, _module, _file, _line, fields = values
            epoch.sites.setdefault(defined, (name, named(fields)))


def named(fields):
    return [(escape(name.data), type_number) for name, type_number in fields]


def dump(data, out):
    """Prints the text form; returns the exit status that the command would have."""
    status = 0
    try:
        if not data:
            raise Refused("the input has no bytes")
        for line in Dump(data).lines():
            out.write(line + "\n")
            if line.startswith("damage"):
                status = 2
    except Refused as why:
        print("decoder.py: %s" % why, file=sys.stderr)
        status = 1
    return status


def main():
    names = sys.argv[1:]
    if not names:
        sys.exit("usage: decoder.py FILE.., or - for the standard input")
    out = open(1, "w", encoding="utf-8", newline="\n", closefd=False)
    status = 0
    for name in names:
        if name == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(name, "rb") as file:
                data = file.read()
        status = dump(data, out)
        if len(names) > 1:
            out.write("end %s %d\n" % (name, status))
    out.flush()
    sys.exit(status)


if __name__ == "__main__":
    main()
