//! What a program emits is what a reader decodes.

use std::io::Write;
use std::sync::Arc;
use std::sync::Mutex;

use trace_decode::Decoder;
use trace_decode::Item;

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(b);
        Ok(b.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn one_thread() {
    let out = Shared::default();
    trace::start(out.clone()).unwrap();
    for i in 0..10u64 {
        let _s = trace::span!("outer", i = i);
        trace::instant!("tick", n = i * 1000, name = "x");
        trace::log!(net, "hello {}", i);
        trace::counter!("c", i as f64);
    }
    let t = trace::task!("job", k = true);
    {
        let _e = t.enter();
        trace::span("closure", || ());
    }
    t.end();
    let s = trace::stop().unwrap();
    let bytes = out.0.lock().unwrap().clone();
    println!("{s:?} {}", bytes.len());
    let mut d = Decoder::new();
    d.push(&bytes);
    d.finish();
    while let Some(item) = d.next_item().unwrap() {
        match item {
            Item::Event(t) => {
                println!("{} {} {:?} {:?}", t.ts_ns, t.thread, String::from_utf8_lossy(t.kind_name().bytes), t.name().map(|n| String::from_utf8_lossy(n.bytes).into_owned()));
                for f in t.fields() {
                    println!("     {:?}", f);
                }
            }
            _ => println!("item"),
        }
    }
}
