//! `exectrace doctor`: what can be recorded here, of this program, and what is missing and why.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use clap::Args;
use serde_json::json;

use crate::failure::Failure;
use crate::json;
use crate::output::Out;
use crate::output::safe;

/// What to look at.
#[derive(Args, Debug)]
pub struct Options {
    /// The program that is to be recorded
    #[arg(value_name = "PROGRAM")]
    program: Option<OsString>,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Something that was looked at.
struct Finding {
    what: &'static str,
    good: bool,
    says: String,
}

/// Runs the command; true where nothing is in the way.
pub fn run(options: &Options, out: &mut Out) -> Result<bool, Failure> {
    let mut found = environment();
    if let Some(program) = &options.program {
        found.extend(program_findings(program));
    }
    let good = found.iter().all(|f| f.good || f.what.starts_with("kernel"));
    if options.json {
        let mut bytes = Vec::new();
        json::object(&mut bytes, |o| {
            o.put("good", good);
            let list = found.iter();
            let list = list.map(|f| json!({"what": f.what, "good": f.good, "says": f.says}));
            o.put("findings", json!(list.collect::<Vec<_>>()));
        });
        bytes.push(b'\n');
        out.bytes(&bytes)?;
        return Ok(good);
    }
    for f in &found {
        let mark = if f.good { "ok " } else { "NO " };
        out.put(format_args!("{mark} {:<20} {}\n", f.what, f.says))?;
    }
    Ok(good)
}

fn environment() -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |what, good, says: String| found.push(Finding { what, good, says });
    let barrier = trace::sys::membarrier::register_everywhere();
    let says = match barrier {
        true => "membarrier works: an event costs no fence",
        false => "membarrier is refused: every event fences, about 20 ns more",
    };
    add("barrier", true, says.into());
    let counter = trace::clock::Clock::get().is_counter();
    let says = match counter {
        true => "the cycle counter can be trusted",
        false => "no trustworthy cycle counter: the monotonic clock is used, about 20 ns more",
    };
    add("clock", true, says.into());
    match trace_record::can_hold_buffers() {
        Ok(path) => add("buffers", true, format!("a tmpfs for them: {}", path.display())),
        Err(e) => add("buffers", false, format!("{e}")),
    }
    let inside = crate::preload::LIBRARY.len();
    match inside {
        0 => add("library", false, "this build has no library to preload inside".into()),
        n => add("library", true, format!("to be preloaded, {} KiB, inside this command", n >> 10)),
    }
    let (good, says) = match trace_record::can_watch() {
        Ok(()) => (true, "recorded with --classes ..,sched: when each thread had a CPU".to_owned()),
        Err(why) => {
            let instead = "a thread that does not wait is \"running or runnable\"";
            (false, format!("{why}; {instead}"))
        }
    };
    add("kernel's switches", good, says);
    found
}

fn program_findings(program: &OsString) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |what, good, says: String| found.push(Finding { what, good, says });
    let path = match trace_record::program(program) {
        Ok(path) => path,
        Err(why) => {
            add("program", false, safe(why.to_string().as_bytes()));
            return found;
        }
    };
    add("program", true, format!("{} can be recorded", safe(path.as_os_str().as_encoded_bytes())));
    match raw_futex_calls(&path) {
        Some(0) => add("hooks", true, "no futex calls around the C library were found".into()),
        Some(n) => add(
            "hooks",
            false,
            format!("{n} places call futex around the C library: waits there are not seen"),
        ),
        None => add("hooks", false, "the program's file cannot be read".into()),
    }
    found
}

/// Places in a program that load the number of futex and enter the kernel themselves, as rustix,
/// libgomp and Go do: on x86-64 `mov eax, 202` with `syscall` within the next 48 bytes.
fn raw_futex_calls(path: &Path) -> Option<usize> {
    const LOAD: [u8; 5] = [0xb8, 202, 0, 0, 0];
    const ENTER: [u8; 2] = [0x0f, 0x05];
    let bytes = fs::read(path).ok()?;
    let is_site = |at: usize| {
        let after = &bytes[at + LOAD.len()..bytes.len().min(at + LOAD.len() + 48)];
        after.windows(2).any(|w| w == ENTER)
    };
    let loads = bytes.windows(LOAD.len()).enumerate().filter(|(_, w)| *w == LOAD);
    Some(loads.filter(|(at, _)| is_site(*at)).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_around_the_library_are_found() {
        let path = std::env::temp_dir().join(format!("exectrace-doctor-{}", std::process::id()));
        let mut bytes = vec![0x90u8; 64];
        bytes.extend([0xb8, 202, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]);
        bytes.extend([0x90; 100]);
        // Another number, and one without the instruction near it.
        bytes.extend([0xb8, 1, 0, 0, 0, 0x0f, 0x05, 0x90, 0xb8, 202, 0, 0, 0]);
        bytes.extend([0x90; 60]);
        bytes.extend([0x0f, 0x05]);
        fs::write(&path, &bytes).unwrap();
        assert_eq!(raw_futex_calls(&path), Some(1));
        fs::remove_file(&path).unwrap();
        assert_eq!(raw_futex_calls(&path), None);
    }
}
