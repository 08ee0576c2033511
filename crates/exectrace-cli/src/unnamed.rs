//! Modules of which some functions have no names, and what would give them names.

use std::cmp::Reverse;

use serde_json::Value;
use serde_json::json;
use trace_symbolize::Missing;
use trace_symbolize::Names;
use trace_symbolize::Report;
use trace_symbolize::Status;

use crate::output::safe;
use crate::places;
use crate::stacks::Stacks;
use crate::table::shortened;
use crate::time;

/// Modules that are told one by one.
const MODULES: usize = 3;

/// Modules with addresses that have no name, those with the most first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unnamed(Vec<Module>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Module {
    path: String,
    asked: u64,
    without: u64,
    why: String,
    /// Its file is there and is the right one: only debug symbols are missing.
    stripped: bool,
}

impl Unnamed {
    /// Of the addresses that were asked for so far.
    pub fn of(stacks: &Stacks) -> Unnamed {
        let mut modules: Vec<Module> = stacks.reports().iter().filter_map(module).collect();
        modules.sort_by(|a, b| (Reverse(a.without), &a.path).cmp(&(Reverse(b.without), &b.path)));
        Unnamed(modules)
    }

    /// What people are told; empty where every function has its name.
    pub fn text(&self) -> String {
        let modules = self.0.iter().take(MODULES);
        let told: Vec<String> = modules
            .map(|m| {
                let name = m.path.rsplit('/').next().unwrap_or(&m.path);
                let why = if m.stripped { "stripped" } else { &m.why };
                format!("{} ({why})", shortened(name))
            })
            .collect();
        if told.is_empty() {
            return String::new();
        }
        let more = match self.0.len() - told.len() {
            0 => String::new(),
            n => format!(" and {}", time::counted(n as u64, "other module")),
        };
        let help = match self.0.iter().any(|m| m.stripped) {
            true => ". Debug symbols (the -dbgsym or -debuginfo package, or --debug-dir) have them",
            false => "",
        };
        format!("Functions without names are in {}{more}{help}.", told.join(", "))
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let module = |m: &Module| {
            json!({
                "module": m.path, "addresses": m.asked, "without_name": m.without, "why": m.why,
            })
        };
        self.0.iter().map(module).collect()
    }
}

fn module(report: &Report<'_>) -> Option<Module> {
    let without = report.asked.saturating_sub(report.resolved);
    // Its inner functions have no names on most machines, and the report leaves them out.
    if without == 0 || places::is_libc(&report.module.path.to_string_lossy()) {
        return None;
    }
    let (why, stripped) = match report.status.as_ref()? {
        // The kernel's page of code has no file, and no names that anybody misses.
        Status::Missing(Missing::NoPath) => return None,
        Status::Missing(why) => (why.to_string(), matches!(why, Missing::NoSymbols)),
        Status::Found(source) if source.names == Names::DynamicSymbols => {
            ("stripped: only the symbols for the dynamic linker are there".to_owned(), true)
        }
        // Code that no compiler named, as that of the dynamic linker.
        Status::Found(_) => return None,
    };
    let path = safe(report.module.path.as_os_str().as_encoded_bytes());
    Some(Module { path, asked: report.asked, without, why: safe(why.as_bytes()), stripped })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str, stripped: bool) -> Module {
        let why = if stripped { "no symbols" } else { "its file is not there" };
        Module { path: path.into(), asked: 5, without: 2, why: why.into(), stripped }
    }

    #[test]
    fn what_would_help_is_said_where_something_would() {
        assert_eq!(Unnamed::default().text(), "");
        let gone = module("/usr/lib/libgone.so.1", false);
        assert_eq!(
            Unnamed(vec![gone.clone()]).text(),
            "Functions without names are in libgone.so.1 (its file is not there)."
        );
        let others = ["/bin/a", "/bin/b", "/bin/c"].map(|path| module(path, true));
        let all = Unnamed([vec![gone], others.to_vec()].concat());
        assert_eq!(
            all.text(),
            "Functions without names are in libgone.so.1 (its file is not there), a (stripped), b \
             (stripped) and 1 other module. Debug symbols (the -dbgsym or -debuginfo package, or \
             --debug-dir) have them."
        );
        assert_eq!(all.json()[3]["without_name"], 2);
    }
}
