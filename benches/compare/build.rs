//! Builds the C half of the LTTng-UST peer, when that peer is what is built.

fn main() {
    println!("cargo:rerun-if-changed=lttng");
    #[cfg(feature = "lttng")]
    lttng();
}

#[cfg(feature = "lttng")]
fn lttng() {
    let flags = std::process::Command::new("pkg-config")
        .args(["--cflags", "--libs", "lttng-ust"])
        .output()
        .expect("pkg-config is needed to find LTTng-UST");
    assert!(flags.status.success(), "pkg-config finds no LTTng-UST");
    let mut build = cc::Build::new();
    build.file("lttng/loops.c").include("lttng").opt_level(3);
    build.flag("-fno-omit-frame-pointer");
    let flags = String::from_utf8(flags.stdout).expect("flags are text");
    for flag in flags.split_whitespace().filter(|f| !f.starts_with("-l")) {
        build.flag(flag);
    }
    build.compile("compare_lttng");
    // A linker that drops what nobody names drops the table in which tracepoints are found.
    println!("cargo:rustc-link-arg-bins=-Wl,--no-gc-sections");
    for library in flags.split_whitespace().filter_map(|f| f.strip_prefix("-l")) {
        println!("cargo:rustc-link-lib={library}");
    }
}
