//! Two decoders agree: `tests/decoder.py`, written from docs/format.md alone, and the library.
//!
//! What they are compared by is the raw text form, byte by byte: on traces built by hand, on the
//! same traces damaged and cut, and on one that was recorded. Skipped where there is no python3.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use trace::encode::field::Text;
use trace::encode::schema;
use trace_decode::ErrorKind;
use trace_decode::raw::Dump;
use trace_testkit::TraceBuilder;
use trace_testkit::hostile;

#[path = "python_decoder/by_hand.rs"]
mod by_hand;

use by_hand::Trace;

/// Whether python3 runs here; says so where it does not.
fn python() -> bool {
    let found = Command::new("python3").arg("--version").output();
    let runs = found.is_ok_and(|o| o.status.success());
    if !runs {
        eprintln!("SKIPPED: there is no python3 here, the second decoder was not run");
    }
    runs
}

/// What one decoder said: its lines, and whether it refused the input.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    lines: Vec<String>,
    refused: bool,
}

/// What the library says.
fn library(bytes: &[u8]) -> Said {
    let mut dump = Dump::new();
    dump.push(bytes);
    dump.finish();
    let mut lines = Vec::new();
    loop {
        match dump.next_line() {
            Ok(Some(line)) => lines.push(line.to_string()),
            Ok(None) => return Said { lines, refused: false },
            Err(e) => {
                // The lines that came before are part of what it says.
                assert!(!matches!(e.kind(), ErrorKind::Empty) || bytes.is_empty(), "{e}");
                return Said { lines, refused: true };
            }
        }
    }
}

/// What the Python decoder says to each of these files.
fn second(files: &[PathBuf]) -> Vec<Said> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/decoder.py");
    let mut command = Command::new("python3");
    // Two names at least, so that it says where each one ends.
    command.arg("-B").arg(script).arg("/dev/null").args(files);
    let output = command.output().expect("python3 runs");
    let text = String::from_utf8(output.stdout).expect("the text form is UTF-8");
    let mut said = Vec::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("end ") {
            Some(end) => {
                let refused = end.ends_with(" 1");
                said.push(Said { lines: std::mem::take(&mut lines), refused });
            }
            None => lines.push(line.to_string()),
        }
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("Traceback"), "{errors}");
    assert_eq!(said.len(), files.len() + 1, "{errors}");
    said.split_off(1)
}

/// Fails at the first line in which the two differ; how many lines there were.
fn compare(name: &str, inputs: &[Vec<u8>]) -> usize {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("decoder-{name}"));
    fs::create_dir_all(&folder).expect("a folder for the traces");
    let mut files = Vec::new();
    for (index, bytes) in inputs.iter().enumerate() {
        let file = folder.join(format!("{index}.trace"));
        fs::write(&file, bytes).expect("the trace can be written");
        files.push(file);
    }
    let mut compared = 0;
    for part in files.chunks(500).zip(inputs.chunks(500)) {
        for ((said, bytes), file) in second(part.0).iter().zip(part.1).zip(part.0) {
            let expected = library(bytes);
            let file = file.display();
            for (at, line) in expected.lines.iter().enumerate() {
                let other = said.lines.get(at).map_or("<nothing>", String::as_str);
                assert_eq!(other, line, "{file}, line {}: left is decoder.py", at + 1);
            }
            assert_eq!(said, &expected, "{file}: left is decoder.py");
            compared += expected.lines.len();
        }
    }
    fs::remove_dir_all(&folder).expect("the folder goes");
    println!("{name}: {} traces, {compared} lines agree", inputs.len());
    compared
}

#[test]
fn traces_built_by_hand() {
    if !python() {
        return;
    }
    let sample = by_hand::sample().bytes;
    let twice = [sample.clone(), sample.clone()].concat();
    let behind_noise = [sample.clone(), vec![0xeb; 100], sample.clone()].concat();
    // The magic makes it a trace, however damaged.
    let magic_alone = [&[0xeb, 0x58, 0x54, 0xf1][..], &[0; 100]].concat();
    let inputs = [sample, twice, behind_noise, by_hand::later().bytes, magic_alone];
    let lines = compare("by-hand", &inputs);
    assert!(lines > 150, "{lines}");
}

/// Texts made to be harmful: both write the same escapes.
#[test]
fn hostile_texts() {
    if !python() {
        return;
    }
    let mut t = TraceBuilder::new(1);
    t.session(0, 1);
    let all = hostile::strings();
    for (n, text) in all.iter().enumerate() {
        t.definitions(|d| {
            d.put(|w| schema::String::put(w, n as u64 + 1, Text { bytes: text, cut_from: None }));
        });
    }
    let lines = compare("hostile", &[t.bytes]);
    assert!(lines > 2 * all.len() && all.len() > 200, "{lines}");
}

#[test]
fn cut_at_every_byte() {
    if !python() {
        return;
    }
    let sample = by_hand::sample().bytes;
    let cuts: Vec<_> = (1..sample.len()).map(|length| sample[..length].to_vec()).collect();
    let lines = compare("cut", &cuts);
    assert!(lines > cuts.len(), "{lines}");
}

#[test]
fn a_bit_flipped_in_every_byte() {
    if !python() {
        return;
    }
    let sample = by_hand::sample().bytes;
    let flip = |at: usize| {
        let mut bytes = sample.clone();
        bytes[at] ^= 1 << (at % 8);
        bytes
    };
    let flips: Vec<_> = (0..sample.len()).map(flip).collect();
    let lines = compare("flip", &flips);
    assert!(lines > flips.len() * 10, "{lines}");
}

/// The trace with one bit flipped, in a batch whose CRC is put right again: two decoders must
/// judge alike what no sum protects from. Magic and length of the batch stay.
fn flipped_and_sealed(trace: &Trace, batch: &Range<usize>, at: usize) -> Vec<u8> {
    let mut bytes = trace.bytes.clone();
    bytes[batch.start + at] ^= 1 << (at % 8);
    by_hand::seal(&mut bytes[batch.clone()]);
    bytes
}

#[test]
fn a_bit_flipped_and_the_batch_sealed_again() {
    if !python() {
        return;
    }
    let sample = by_hand::sample();
    let mut traces = Vec::new();
    for batch in &sample.batches {
        // Not the magic, the length and the CRC itself.
        for at in (8..12).chain(16..batch.len()) {
            traces.push(flipped_and_sealed(&sample, batch, at));
        }
    }
    let lines = compare("sealed", &traces);
    assert!(lines > traces.len() * 10, "{lines}");
}

/// Records a program of its own: several threads, values of every type, text that is hard to show,
/// text that is cut.
fn record() -> Vec<u8> {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("decoder-recorded.trace");
    trace::start(fs::File::create(&file).expect("a file for the trace")).expect("idle before");
    let work = |worker: u64| {
        for n in 0..2_000u64 {
            let _span = trace::span!("step", n = n * n * worker, even = n % 2 == 0);
            trace::instant!("seen", signed = -(n as i64), part = n as f64 / 3.0);
            trace::counter!("left", 2_000 - n);
            if n % 100 == 0 {
                let text = "\u{202e}\x1b[31m \"quoted\" \\ \u{e4}\n".repeat(n as usize / 10);
                trace::log!(odd, "{n}: {text}");
                trace::instant!("long", text = text.as_str());
                let task = trace::task!("job", worker = worker);
                let _entered = task.enter();
                trace::log!(odd, "inside");
            }
        }
    };
    std::thread::scope(|scope| {
        for worker in 1..=3 {
            scope.spawn(move || work(worker));
        }
    });
    let summary = trace::stop().expect("nothing stands in the way");
    assert!(summary.events >= 3 * 2_000 * 4, "{summary:?}");
    let bytes = fs::read(&file).expect("the trace can be read");
    fs::remove_file(&file).expect("the trace goes");
    bytes
}

#[test]
fn a_recorded_trace() {
    if !python() {
        return;
    }
    let lines = compare("recorded", &[record()]);
    assert!(lines > 3 * 2_000 * 4, "{lines}");
}

/// The trace of `examples/pipeline.rs` over this repository's own source.
#[test]
fn the_trace_of_the_example() {
    if !python() {
        return;
    }
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = temporary.join("decoder-pipeline.trace");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["run", "--quiet", "--example", "pipeline"]);
    cargo.arg("--target-dir").arg(temporary.parent().expect("tmp stands in the target folder"));
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.args(["--", "src", "--out"]).arg(&file).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = fs::read(&file).expect("the example wrote its trace");
    fs::remove_file(&file).expect("the trace goes");
    let lines = compare("pipeline", &[bytes]);
    assert!(lines > 200, "{lines}");
}
