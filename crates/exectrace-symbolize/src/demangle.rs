//! Mangled names to names as they are written in source.

use std::fmt;
use std::fmt::Write;

/// Longest name given out, in bytes. A mangled name of a few hundred bytes can stand for one of
/// gigabytes; the longest that compilers were seen to write have some ten thousand.
const NAME_BYTES_MAX: usize = 16 << 10;

/// Writes to a string until that is full.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        if self.0.len() + s.len() > NAME_BYTES_MAX {
            return Err(fmt::Error);
        }
        self.0.push_str(s);
        Ok(())
    }
}

/// Whether a compiler made this name from another one.
pub(crate) fn is_mangled(name: &str) -> bool {
    name.starts_with("_R") || name.starts_with("_Z")
}

/// The name as it is written in source: of Rust (both manglings, without the hash) and C++; any
/// other name as it is.
pub fn demangle(name: &str) -> String {
    if is_mangled(name) {
        let mut out = Bounded(String::new());
        if let Ok(rust) = rustc_demangle::try_demangle(name)
            && write!(out, "{rust:#}").is_ok()
        {
            return out.0;
        }
        out.0.clear();
        if let Ok(cpp) = cpp_demangle::Symbol::new(name)
            && cpp.structured_demangle(&mut out, &cpp_demangle::DemangleOptions::default()).is_ok()
        {
            return out.0;
        }
    }
    let mut end = name.len().min(NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_and_cpp_and_neither() {
        assert_eq!(
            demangle("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE"),
            "core::fmt::Write::write_fmt"
        );
        assert_eq!(demangle("_RNvCs15kBYyAo9fc_7mycrate7example"), "mycrate::example");
        assert_eq!(demangle("_ZNK3map3xyzEv"), "map::xyz() const");
        assert_eq!(demangle("memcpy"), "memcpy");
        assert_eq!(demangle("_Znot mangled"), "_Znot mangled");
    }

    #[test]
    fn a_name_that_grows_without_bound_is_given_as_it_is() {
        // Each tuple doubles the one before by a back reference: 2^40 names at the end.
        let mut name = String::from("_ZN1a1bI");
        name.push_str("St4pairI");
        for _ in 0..40 {
            name.push_str("S_I");
        }
        assert!(demangle(&name).len() <= NAME_BYTES_MAX);
        let long = "x".repeat(NAME_BYTES_MAX) + "\u{e9}";
        assert_eq!(demangle(&long).len(), NAME_BYTES_MAX);
        assert!(demangle(&("_Z".to_owned() + &"P".repeat(100_000))).len() <= NAME_BYTES_MAX);
    }
}
