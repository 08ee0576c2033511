//! Exists because `links = "exectrace"` in Cargo.toml needs a build script. It does nothing.
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
