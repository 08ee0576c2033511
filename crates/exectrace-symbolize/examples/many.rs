//! How long it takes to resolve many addresses of a program, and in how much memory: addresses
//! spread evenly over its code, in random order or by address, each once and then once more.
//!
//!     cargo run --release -p exectrace-symbolize --example many -- PROGRAM [COUNT [sorted]]

use std::error::Error;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Instant;

use object::Object;
use object::ObjectSection;
use trace_symbolize::Module;
use trace_symbolize::Space;
use trace_symbolize::Status;
use trace_symbolize::Symbolizer;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let path = PathBuf::from(args.next().ok_or("usage: many PROGRAM [COUNT [sorted]]")?);
    let count: u64 = match args.next() {
        Some(count) => count.to_string_lossy().parse()?,
        None => 100_000,
    };
    let (text, module) = describe(&path)?;
    let mut addresses: Vec<u64> = (0..count)
        .map(|i| text.0 + (u128::from(text.1) * u128::from(i) / u128::from(count)) as u64)
        .collect();
    if args.next().is_none_or(|order| order != "sorted") {
        shuffle(&mut addresses);
    }

    let before = memory_kib("VmRSS:");
    let mut symbolizer = Symbolizer::new();
    let began = Instant::now();
    let id = symbolizer.add_module(Space::default(), module);
    let status = symbolizer.status(id);
    println!("{}: code of {} bytes", path.display(), text.1);
    println!("opened in {:?}", began.elapsed());
    match status {
        Status::Found(source) => {
            println!("names from {:?}, {}", source.names, source.file.display())
        }
        Status::Missing(why) => return Err(why.to_string().into()),
    }
    for round in ["first", "again"] {
        let began = Instant::now();
        let mut frames = 0;
        for address in &addresses {
            frames += symbolizer.resolve(Space::default(), *address).frames.len();
        }
        let took = began.elapsed();
        let each = took.as_nanos() / u128::from(count.max(1));
        println!("{round}: {count} addresses, {frames} frames in {took:?}, {each} ns each");
    }
    for report in symbolizer.modules() {
        println!("asked {}, resolved {}", report.asked, report.resolved);
        if let Some(Status::Found(source)) = report.status {
            println!("partial: {:?}", source.partial);
        }
    }
    println!("memory: {} KiB before, {} KiB at most", before, memory_kib("VmHWM:"));
    Ok(())
}

/// Where the code is in the file, and the module as a recorder would describe it.
fn describe(path: &PathBuf) -> Result<((u64, u64), Module), Box<dyn Error>> {
    let cache = object::ReadCache::new(fs::File::open(path)?);
    let elf = object::File::parse(&cache)?;
    let text = elf.section_by_name(".text").ok_or("no .text")?;
    let meta = fs::metadata(path)?;
    let module = Module {
        base: 0,
        size: u64::MAX,
        bias: 0,
        build_id: elf.build_id()?.map(<[u8]>::to_vec),
        path: path.clone(),
        file_size: meta.len(),
        mtime: meta.mtime() as u64,
    };
    Ok(((text.address(), text.size()), module))
}

/// The same order every time.
fn shuffle(list: &mut [u64]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for i in (1..list.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        list.swap(i, (state % (i as u64 + 1)) as usize);
    }
}

fn memory_kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
