#!/usr/bin/env python3
"""A second decoder of the exectrace format, written from docs/format.md and nothing else.

It prints the raw text form of a trace, as `exectrace dump FILE` does. Two decoders that agree show
that the page says enough to write one; `tests/python_decoder.rs` compares them.

Standard library only. Use: decoder.py FILE, or - for the standard input.
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
32 State task: task, spans: list, deeper: u64
33 SpanEnd
34 SpanEndAt depth: u64
35 TaskSwitch task: task
36 TaskEnd task: task
"""

SCHEMA, SITE = 2, 5


def static_kinds():
    """The table above as {kind: (name, [(field name, type number)])}."""
    kinds = {}
    for line in STATIC.strip().splitlines():
        number, name, *rest = line.split(" ", 2)
        fields = []
        for field in " ".join(rest).split(", ") if rest else []:
            field_name, type_name = field.split(": ")
            fields.append((field_name.encode(), TYPES[type_name]))
        kinds[int(number)] = (name.encode(), fields)
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
    """The body of a batch cannot be read on."""


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
        raise Malformed("a shape of a later version")
