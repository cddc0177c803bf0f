//! Compiles the kernel program with clang. Without clang the relay is built without it, says so
//! when it starts, and forwards through sockets (docs/decisions/0008).

use std::{env, ffi::OsString, fs, io, path::PathBuf, process::Command};

const SOURCE: &str = "src/relay/kernel/relay.bpf.c";
const HEADERS: [&str; 3] = [
    "src/relay/kernel/bpf.h",
    "src/relay/kernel/maps.bpf.h",
    "src/relay/kernel/packet.bpf.h",
];

fn main() {
    for path in [SOURCE].into_iter().chain(HEADERS) {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rustc-check-cfg=cfg(kernel_program)");
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let object = PathBuf::from(out).join("relay.bpf.o");
    let clang = env::var_os("CLANG");
    let named = clang.is_some();
    let clang = clang.unwrap_or_else(|| OsString::from("clang"));
    let compiled = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf"])
        // The object names its source: the same from every directory.
        .arg("-fdebug-compilation-dir=.")
        .args(["-c", SOURCE, "-o"])
        .arg(&object)
        .status();
    match compiled {
        Ok(status) if status.success() => println!("cargo::rustc-cfg=kernel_program"),
        Ok(_) => {
            panic!("clang failed to compile {SOURCE}: see above (clang 14 or later is needed)")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && !named => {
            println!(
                "cargo::warning=clang is not installed: the relay is built without its kernel data \
                 path; install clang and build again"
            );
            // So that clang is found once it is there.
            println!("cargo::rerun-if-changed=/usr/bin");
            fs::remove_file(&object).ok();
        }
        Err(error) => panic!("failed to run clang ({}): {error}", clang.display()),
    }
}
