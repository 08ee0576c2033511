//! Writes the seeds of the targets into their folders below `corpus/`.

use std::fs;
use std::path::Path;

use trace_testkit::sample;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in ["decode", "structured"] {
        fs::create_dir_all(corpus.join(target))?;
    }
    let traces = [sample::small(), sample::hostile(), sample::many_batches(3)];
    for (i, t) in traces.iter().enumerate() {
        let whole = [&[255][..], &t.bytes].concat();
        fs::write(corpus.join("decode").join(format!("whole-{i}")), &whole)?;
        fs::write(corpus.join("decode").join(format!("cut-{i}")), &whole[..whole.len() * 2 / 3])?;
        fs::write(corpus.join("structured").join(format!("{i}")), sample::unsealed(t))?;
    }
    Ok(())
}
