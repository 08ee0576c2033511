//! What is no trace of this version: other tools' files, later versions, the wrong byte order. The
//! first line says what was found and what is read; nothing is guessed.

use trace_decode::Decoder;
use trace_decode::Error;
use trace_decode::ErrorKind;
use trace_decode::Scan;
use trace_decode::Validate;
use trace_decode::batch::Batches;
use trace_decode::raw::Dump;
use trace_testkit::expect::everything;
use trace_testkit::sample;
use trace_testkit::sealed;

/// Asks until there is nothing more.
fn first_error(mut next: impl FnMut() -> Result<bool, Error>) -> Option<Error> {
    loop {
        match next() {
            Ok(true) => {}
            Ok(false) => return None,
            Err(e) => return Some(e),
        }
    }
}

/// The refusal of every reader, which must be the same, in pieces of one byte and as a whole.
#[track_caller]
fn refusal(bytes: &[u8]) -> Error {
    let mut all = Vec::new();
    for piece in [1, 7, bytes.len()] {
        let (mut decoder, mut scan) = (Decoder::new(), Scan::new());
        let (mut dump, mut validate) = (Dump::new(), Validate::new());
        let mut errors: [Option<Error>; 4] = [const { None }; 4];
        let mut ask = |decoder: &mut Decoder, scan: &mut Scan, dump: &mut Dump| {
            errors[0] = errors[0].take().or(first_error(|| Ok(decoder.next_item()?.is_some())));
            errors[1] = errors[1].take().or(first_error(|| Ok(scan.next_item()?.is_some())));
            errors[2] = errors[2].take().or(first_error(|| Ok(dump.next_line()?.is_some())));
        };
        let mut refused = None;
        for part in bytes.chunks(piece) {
            decoder.push(part);
            scan.push(part);
            dump.push(part);
            refused = refused.or(validate.push(part).err());
            ask(&mut decoder, &mut scan, &mut dump);
        }
        decoder.finish();
        scan.finish();
        dump.finish();
        refused = refused.or(validate.finish().err());
        ask(&mut decoder, &mut scan, &mut dump);
        errors[3] = refused;
        all.extend(errors.map(|e| e.expect("a refusal")));
    }
    all.extend(Batches::new(bytes).find_map(Result::err));
    assert_eq!(all.len(), 13);
    assert!(all.iter().all(|e| *e == all[0]), "{all:?}");
    assert_eq!(all[0].to_string().lines().count(), 1);
    all.remove(0)
}

#[test]
fn files_of_other_tools() {
    let files: [(&[u8], &str); 24] = [
        (b"\xf1\x54\x58\xeb\0\0\0\x80\x01", "(our magic backwards: the byte order was changed)"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "(gzip: unpack it first)"),
        (b"\x28\xb5\x2f\xfd\x04\x58", "(zstd: unpack it first)"),
        (b"\xfd7zXZ\0\0\x04", "(xz: unpack it first)"),
        (b"BZh91AY&SY", "(bzip2: unpack it first)"),
        (b"\x04\x22\x4d\x18\x64\x40", "(lz4: unpack it first)"),
        (b"PK\x03\x04\x14\0", "(zip: unpack it first)"),
        (b"\x7fELF\x02\x01\x01\0", "(ELF: a program, library or core file)"),
        (b"PERFILE2h\0\0\0", "(data of Linux perf)"),
        (b"go 1.22 trace\0\0\0", "(a trace of the Go runtime)"),
        (b"\xc1\x1f\xfc\xc1\0\0", "(a packet of the Common Trace Format)"),
        (b"\xc1\xfc\x1f\xc1\0\0", "(a packet of the Common Trace Format)"),
        (b"SQLite format 3\0", "(an SQLite database)"),
        (b"{\"traceEvents\": []}", "(JSON)"),
        (b"[{\"ph\":\"B\"}]", "(JSON)"),
        (b"<!doctype html>", "(XML or HTML)"),
        // A profile of pprof before packing, one of Perfetto, text, a byte order mark, zeros.
        (b"\x0a\x04\x08\x01\x10\x02", ""),
        (b"\x0a\x8b\x01\x08\x8d\xac", ""),
        (b"hello, world", ""),
        (b"\xef\xbb\xbftext", ""),
        (&[0; 300], ""),
        (b"\n", ""),
        // Nearly the magic.
        (b"\xeb\x58\x54\xf2\x40\0\0\0", ""),
        (b"\xeb\x58\x55", ""),
    ];
    for (bytes, kind) in files {
        let error = refusal(bytes);
        assert_eq!((error.kind(), error.offset()), (ErrorKind::NotATrace, 0));
        let hex: Vec<String> = bytes.iter().take(8).map(|b| format!("{b:02X}")).collect();
        let want = format!(
            "not an exectrace trace: expected magic EB 58 54 F1 at offset 0, found {} {kind}",
            hex.join(" ")
        );
        assert_eq!(error.to_string(), want.trim_end());
        assert_eq!(error.expected(), "magic EB 58 54 F1");
    }
    assert_eq!(refusal(&[0; 9]).kind(), ErrorKind::NotATrace);
}

/// Whatever a later version has in its bodies, and behind its first batch.
#[test]
fn versions_from_the_future() {
    let header = sample::small().next;
    for found in [2, 3, 255, 256, u16::MAX] {
        let first = sealed(trace::encode::wire::Header { version: found, ..header }, &[0xff; 40]);
        for behind in [&b""[..], &[0; 100], &first, b"\xeb\x58\x54\xf1"] {
            let error = refusal(&[&first[..], behind].concat());
            assert_eq!(error.kind(), ErrorKind::Version { found });
            let want = format!(
                "trace of format version {found} at offset 0: this decoder supports version 1; \
                 read it with a newer exectrace"
            );
            assert_eq!(error.to_string(), want);
        }
        // Behind a trace of ours: that one is read, then the same refusal with its place.
        let t = sample::small();
        let both = [&t.bytes[..], &first].concat();
        let error = refusal(&both);
        assert_eq!(error.offset(), t.bytes.len() as u64);
        let v = everything(&both, 100);
        assert_eq!((v.events, v.sessions), (20, (1, 1)));
    }
}

/// Traces behind each other, whole and cut, are sessions in their order.
#[test]
fn concatenated_traces() {
    let (a, b) = (sample::small(), sample::many_batches(3));
    for parts in [[&a, &b], [&b, &a], [&b, &b]] {
        let bytes = [&parts[0].bytes[..], &parts[1].bytes].concat();
        let v = everything(&bytes, 999);
        let events = |t: &trace_testkit::TraceBuilder| t.events;
        assert_eq!((v.events, v.sessions.0), (events(parts[0]) + events(parts[1]), 2));
        assert_eq!((v.damage, v.error), (vec![], None));
        // The first one without its last ten bytes, as a process leaves it that was killed.
        let cut = parts[0].bytes.len() - 10;
        let v = everything(&[&parts[0].bytes[..cut], &parts[1].bytes].concat(), 999);
        assert_eq!((v.events, v.sessions), (events(parts[0]) + events(parts[1]), (2, 1)));
        assert_eq!(v.damage.len(), 1);
    }
    let many: Vec<u8> = (0..50).flat_map(|_| b.bytes.clone()).collect();
    assert_eq!(everything(&many, 5000).sessions, (50, 50));
}
