//! The sample trace says what its builder says.

use trace_testkit::expect::decode;
use trace_testkit::sample;

#[test]
fn small_trace_decodes_in_order() {
    let t = sample::small();
    let want = [
        "10 1/0 ThreadStart",
        "15 1/0 task [job] task=Task(7) parent=Task(0) name=String(1)",
        "16 1/0 TaskSwitch task=Task(7)",
        "20 2/0 ThreadStart",
        "24 2/0 counter [load] value=0.5",
        "26 1/0 span [work]",
        "326 1/0 instant [hit] n=1099511627776",
        "328 1/0 ThreadCreate thread=Thread(2) stack=Stack(1)",
        "336 1/0 log [say] text=hello by=-5 stack=Stack(1)",
        "356 1/0 SpanEnd [work] took=330",
        "424 2/0 instant [hit] n=3",
        "1100 1/0 State task=Task(7) spans=[] deeper=0",
        "1101 1/0 span [work]",
        "1101 1/1 instant [hit] n=9",
        "1102 1/0 span [work]",
        "1102 1/1 log [say] text=cu\\xfft..90 by=0 stack=Stack(0)",
        "1103 1/0 SpanEndAt [work] took=2 depth=0",
        "1104 1/0 SpanEnd [work] took=2",
        "1105 1/0 TaskEnd task=Task(7)",
        "1106 1/0 ThreadEnd",
    ];
    for piece in [1, 7, 64, 1000, usize::MAX] {
        let got = decode(&t.bytes, piece);
        assert_eq!(got.events, want, "pieces of {piece}");
        assert_eq!(got.error, None);
        assert_eq!(got.damaged_bytes, 0);
        assert_eq!(got.others.last().unwrap(), "end events=20: 20 events");
    }
    assert_eq!(t.events, 20);
}
