//! What a program and its functions are called in a report: by which name it was started, and what
//! is said where functions have no names.

use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::Value;

mod recording;

use recording::can_record;
use recording::exectrace;
use recording::folder;
use recording::text;

/// Waits in a function of its own that is not exported.
const WAITS: &str = "#include <unistd.h>
__attribute__((noinline)) static void nap(void) { for (int i = 0; i < 20; i++) usleep(2000); }
int main(void) { nap(); return write(1, \"done\\n\", 5) != 5; }
";
const SAID: &str = "Functions without names are in tool (stripped). Debug symbols (the -dbgsym or \
                    -debuginfo package, or --debug-dir) have them.";

#[test]
fn functions_of_a_stripped_program_are_missed_and_by_what_is_said() {
    let folder = folder("names");
    if !can_record(&folder) {
        return;
    }
    std::fs::write(folder.join("tool.c"), WAITS).unwrap();
    // The file by this name is a link, as that of many a server.
    symlink("tool", folder.join("server")).unwrap();
    for stripped in [false, true] {
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-fno-optimize-sibling-calls", "-o", "tool", "tool.c"]);
        let cc = cc.args(stripped.then_some("-s")).current_dir(&folder);
        match cc.output() {
            Ok(out) => assert!(out.status.success(), "{}", text(&out.stderr)),
            Err(e) => return println!("skipped: no C compiler: {e}"),
        }
        let out = exectrace(&folder, &["record", "--", "./server"]).output().unwrap();
        let said = text(&out.stderr);
        assert!(out.status.success() && out.stdout == b"done\n", "{said}");
        assert!(said.contains("server.trace (") && said.contains(", server, process "), "{said}");
        let report = exectrace(&folder, &["report", "--json", "server.trace"]).output().unwrap();
        let report: Value = serde_json::from_slice(&report.stdout).unwrap();
        let unnamed = report["unnamed"].as_array().unwrap();
        if !stripped {
            assert!(said.contains("asleep in nap") && unnamed.is_empty(), "{unnamed:?} {said}");
            assert!(!said.contains("without names"), "{said}");
            continue;
        }
        let [tool] = unnamed.as_slice() else { panic!("{unnamed:?}") };
        assert!(tool["module"].as_str().unwrap().ends_with("/tool"), "{tool}");
        assert!(tool["without_name"].as_u64().unwrap() >= 1, "{tool}");
        assert!(said.contains(SAID), "{said}");
    }
}
