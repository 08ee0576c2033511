//! The raw text form of a small trace, line by line.

use trace::encode::schema::SPECS;
use trace_testkit::expect::dump;
use trace_testkit::sample;

#[test]
fn small_trace() {
    let t = sample::small();
    let lines = dump(&t.bytes);
    let head = |i: usize| {
        let end = t.offsets.get(i + 1).copied().unwrap_or(t.bytes.len());
        format!("batch {i} offset={} length={}", t.offsets[i], end - t.offsets[i])
    };
    let session = "session=000000005e551001 epoch=1";
    assert_eq!(
        lines[0],
        format!(
            "{} kind=session lane=0 version=1 {session} generation=1 thread=0 sequence=0 first=0 \
             last=0 count={} flags=0",
            head(0),
            1 + SPECS.len(),
        )
    );
    assert_eq!(
        lines[1],
        "  Session format=1 recorder=\"testkit\" tick_shift=0 tick_rate=1000000000 clock=1 \
         start=1000 pid=4711 program=\"by hand\" arch=\"none\" mode=1"
    );
    assert_eq!(
        lines[3],
        "  Schema kind=2 name=\"Schema\" phase=0 pair=\"\" \
         fields={kind:kind,name:text,phase:u64,pair:text,fields:fields}"
    );
    let from = lines.iter().position(|l| l.starts_with("batch 2 ")).unwrap();
    let want = [
        "  String id=1 text=\"hit\"",
        "  String id=2 text=\"work\"",
        "  String id=3 text=\"say\"",
        "  String id=4 text=\"load\"",
        "  String id=5 text=\"job\"",
        "  Stack id=1 flags=0 frames=[0x5010,0x5008,0x4000]",
        "  Site kind=64 class=1 flags=0 name=1 module=0 file=0 line=64 fields={n:u64}",
    ];
    assert_eq!(lines[from + 1..from + 8], want);
    let from = lines.iter().position(|l| l.starts_with("batch 3 ")).unwrap();
    let want = [
        &*format!(
            "{} kind=events lane=0 version=1 {session} generation=1 thread=1 sequence=0 \
             first=1010 last=1356 count=8 flags=0",
            head(3)
        ),
        "  +0 ThreadStart",
        "  +5 site 68 \"job\" task=7 parent=0 name=1",
        "  +1 TaskSwitch task=7",
        "  +10 site 65 \"work\"",
        "  +300 site 64 \"hit\" n=1099511627776",
        "  +2 ThreadCreate thread=2 stack=1",
        "  +8 site 66 \"say\" text=\"hello\" by=-5 stack=1",
        "  +20 SpanEnd",
    ];
    assert_eq!(lines[from..from + 9], want);
    assert!(lines.contains(&"  +4 site 67 \"load\" value=0x3fe0000000000000".to_string()));
    assert!(lines.contains(&"  +1 site 66 \"say\" text=\"cu\\xfft\"..90 by=0 stack=0".to_string()));
    assert_eq!(lines.iter().filter(|l| l.starts_with("batch ")).count(), t.offsets.len());
}

#[test]
fn what_is_unknown_or_damaged() {
    let mut t = sample::hostile();
    let lines = dump(&t.bytes);
    let want = [
        "  kind 51 \"LaterTable\" a=5 b=\"x\"",
        "  +3 kind 50 \"LaterTimed\" a=1 b=\"hi\" c=[18446744073709551615,0]",
        "  +128 site 130 ?77",
        "  Module base=0x4000 size=8192 bias=0x0 build_id=#0102ff path=\"/bin/none\" file_size=9 \
         mtime=8",
        "  GenerationEnd generation=1 at=9223372036854775817 late=[3,9]",
    ];
    for line in want {
        assert!(lines.iter().any(|l| l == line), "{line} not in\n{}", lines.join("\n"));
    }
    assert!(lines.iter().any(|l| l.contains(" kind=200 ")));
    let (at, len) = (t.offsets[2], t.offsets[3] - t.offsets[2]);
    t.bytes[at + 70] ^= 1;
    let lines = dump(&t.bytes);
    assert!(lines.contains(&format!("damage offset={at} length={len} crc")));
}
