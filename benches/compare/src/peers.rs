//! Who is compared, and how each is set up.

use std::path::Path;
use std::process::Command;
use std::process::Stdio;

/// One row of the tables.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its name in the tables and for `--only`.
    pub name: &'static str,
    /// The feature of the program `peer` that has it.
    pub feature: &'static str,
    /// More flags for the compiler.
    pub flags: &'static str,
    /// What the peer is told of its set-up.
    pub how: &'static str,
    /// Whose version is told.
    pub version_of: &'static str,
    /// What is done with it.
    pub jobs: &'static [&'static str],
    /// What a reader of the table has to know.
    pub note: &'static str,
}

/// Everything.
const ALL: &[&str] = &[
    "off",
    "on-instant",
    "on-span",
    "added",
    "two-instant",
    "two-span",
    "flood-instant",
    "flood-span",
    "paced",
    "read",
];
/// For what cannot be off.
const ON: &[&str] = &[
    "on-instant",
    "on-span",
    "added",
    "two-instant",
    "two-span",
    "flood-instant",
    "flood-span",
    "paced",
];

/// The rows, in their order.
pub const PEERS: &[Peer] = &[
    Peer {
        name: "exectrace",
        feature: "exectrace",
        flags: "",
        how: "wait",
        version_of: "exectrace",
        jobs: ALL,
        note: "memory bound 4 MiB, threads wait at the bound (`Overflow::Wait`)",
    },
    Peer {
        name: "exectrace, v3",
        feature: "exectrace",
        flags: "-C target-cpu=x86-64-v3",
        how: "wait",
        version_of: "exectrace",
        jobs: ALL,
        note: "the same, built for x86-64-v3",
    },
    Peer {
        name: "exectrace, defaults",
        feature: "exectrace",
        flags: "",
        how: "defaults",
        version_of: "exectrace",
        jobs: ON,
        note: "as `Config::new()` is: 256 MiB, events beyond the bound are counted",
    },
    Peer {
        name: "tracy",
        feature: "tracy",
        flags: "",
        how: "",
        version_of: "tracy-client",
        jobs: ON,
        note: "records from the start of the process; instants are points of a plot; needs a \
               connected profiler, else its memory grows without limit: the harness plays one, in \
               the process, and keeps the stream as it comes (LZ4)",
    },
    Peer {
        name: "tracy, on demand",
        feature: "tracy-ondemand",
        flags: "",
        how: "",
        version_of: "tracy-client",
        jobs: &["off", "on-instant", "on-span", "added"],
        note: "off: no profiler is connected",
    },
    Peer {
        name: "dial9",
        feature: "dial9",
        flags: "",
        how: "",
        version_of: "dial9-core",
        jobs: ALL,
        note: "no spans: two events",
    },
    Peer {
        name: "puffin",
        feature: "puffin",
        flags: "",
        how: "",
        version_of: "puffin",
        jobs: ALL,
        note: "no instants: a scope with a constant text; a burst stands inside an outer scope; \
               files are packed (LZ4)",
    },
    Peer {
        name: "LTTng-UST",
        feature: "lttng",
        flags: "",
        how: "",
        version_of: "lttng-ust",
        jobs: ALL,
        note: "C; no spans: two events; four buffers of 1 MiB for each processor, threads wait at \
               the bound; a daemon writes, its memory is not counted",
    },
    Peer {
        name: "fastrace",
        feature: "fastrace",
        flags: "",
        how: "",
        version_of: "fastrace",
        jobs: &ON_OFF,
        note: "instants are events of a span with a constant text; a burst stands below a root \
               span; no file format: the harness writes one",
    },
    Peer {
        name: "perfetto-sdk",
        feature: "perfetto",
        flags: "",
        how: "",
        version_of: "perfetto-sdk",
        jobs: &ON_OFF,
        note: "in-process backend, 32 MiB between threads and the central buffer of 256 MiB, \
               written to the file every 100 ms",
    },
    Peer {
        name: "tracing-chrome",
        feature: "tracing-chrome",
        flags: "",
        how: "",
        version_of: "tracing-chrome",
        jobs: &ON_OFF,
        note: "JSON; off: as tracing",
    },
    Peer {
        name: "tracing",
        feature: "tracing",
        flags: "",
        how: "",
        version_of: "tracing",
        jobs: &["off"],
        note: "no subscriber",
    },
];

/// Everything but reading, for what has no reader of its own here.
const ON_OFF: [&str; 9] = [
    "off",
    "on-instant",
    "on-span",
    "added",
    "two-instant",
    "two-span",
    "flood-instant",
    "flood-span",
    "paced",
];

/// Whether a program runs and ends well with these arguments.
fn runs(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|s| s.success())
}

impl Peer {
    /// Why this machine cannot build or run it, where that is known beforehand.
    pub fn missing(&self) -> Option<&'static str> {
        match self.feature {
            "lttng" if !runs("cc", &["--version"]) => Some("no C compiler (cc)"),
            "lttng" if !runs("pkg-config", &["--exists", "lttng-ust"]) => {
                Some("no LTTng-UST (Debian: liblttng-ust-dev, pkg-config)")
            }
            "lttng" if !runs("lttng", &["--version"]) => Some("no lttng (Debian: lttng-tools)"),
            "lttng" if !runs("babeltrace2", &["--version"]) => {
                Some("no babeltrace2 to count its events with (Debian: babeltrace2)")
            }
            "tracy" | "tracy-ondemand" | "perfetto" if !runs("c++", &["--version"]) => {
                Some("no C++ compiler (c++)")
            }
            _ if self.flags.contains("x86-64") && !has_v3() => Some("not on this processor"),
            _ => None,
        }
    }

    /// Its version: from the lock file, or for what is no crate from pkg-config.
    pub fn version(&self, lock: &str) -> String {
        if self.version_of == "lttng-ust" {
            let asked = Command::new("pkg-config").args(["--modversion", "lttng-ust"]).output();
            let said = asked.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
            return said.unwrap_or_default();
        }
        let head = format!("name = \"{}\"\nversion = \"", self.version_of);
        let rest = lock.split_once(&head).map_or("", |(_, rest)| rest);
        rest.split('"').next().unwrap_or("").to_owned()
    }
}

/// Whether this processor executes what is built for x86-64-v3.
#[cfg(target_arch = "x86_64")]
fn has_v3() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("bmi2")
        && std::arch::is_x86_feature_detected!("fma")
        && std::arch::is_x86_feature_detected!("lzcnt")
        && std::arch::is_x86_feature_detected!("movbe")
}

/// Whether this processor executes what is built for x86-64-v3.
#[cfg(not(target_arch = "x86_64"))]
fn has_v3() -> bool {
    false
}

/// The lock file of this workspace.
pub fn lock() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
    std::fs::read_to_string(path).unwrap_or_default()
}
