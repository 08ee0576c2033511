//! A program that has the hooks by one line of its own, without a preloaded library: what its
//! threads wait for is in its own session's trace, beside its spans.

use std::io::Read;
use std::io::Write;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use trace::encode::op::Op;
use trace_decode::Decoder;
use trace_decode::Item;
use trace_decode::Value;

trace_hooks::hooks!();

/// A writer that keeps what it gets.
#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Vec<u8>>>);

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Each wait: thread, call, object, result. And the number of spans.
fn waits(bytes: &[u8]) -> (Vec<(u32, Op, u64, u64)>, u32) {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    decoder.finish();
    let (mut waits, mut spans) = (Vec::new(), 0);
    while let Some(item) = decoder.next_item().unwrap() {
        let Item::Event(e) = item else { continue };
        let name = e.kind_name();
        spans += u32::from(name.bytes == b"span");
        if name.bytes == b"Wait" {
            let number = |field: &str| match e.fields().find(|(n, _)| *n == field.as_bytes()) {
                Some((_, Value::U64(v))) => v,
                other => panic!("{field}: {other:?}"),
            };
            let op = Op::from_u64(number("op")).expect("a call of the table");
            waits.push((e.thread, op, number("object"), number("result")));
        }
    }
    (waits, spans)
}

#[test]
fn waits_beside_spans() {
    let out = Capture::default();
    trace::start(out.clone()).unwrap();
    let (mut reads, mut writes) = std::io::pipe().unwrap();
    {
        let _span = trace::span!("work");
        let reader = std::thread::spawn(move || {
            let mut byte = [0];
            reads.read_exact(&mut byte).unwrap();
            byte[0]
        });
        // The reader sleeps, unless the machine is very busy: the join waits for it in any case.
        std::thread::sleep(Duration::from_millis(30));
        writes.write_all(&[7]).unwrap();
        assert_eq!(reader.join().unwrap(), 7);
    }
    trace::stop().unwrap();
    let bytes = std::mem::take(&mut *out.0.lock().unwrap());
    let (waits, spans) = waits(&bytes);
    assert_eq!(spans, 1);
    let of = |op: Op| waits.iter().filter(|w| w.1 == op).collect::<Vec<_>>();
    let sleeps = of(Op::Sleep);
    assert_eq!(sleeps.len(), 1, "{waits:?}");
    let main = sleeps[0].0;
    assert!(of(Op::Write).iter().any(|w| w.0 == main && w.3 == 1), "{waits:?}");
    let joins = of(Op::Join);
    assert_eq!(joins.len(), 1);
    assert!(joins[0].0 == main && joins[0].3 != 0 && joins[0].3 != u64::from(main));
}
