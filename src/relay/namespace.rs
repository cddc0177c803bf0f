//! Network namespaces for tests, removed with the value that made them.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    reason = "setns has no safe wrapper here, and a failing test may panic"
)]

use std::{
    fs::File,
    io::Write as _,
    os::fd::AsRawFd,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A set of namespaces with devices between them.
pub(super) struct Net {
    names: Vec<String>,
}

impl Net {
    /// Makes namespaces with these short names, none connected, loopback up. `None` where this process
    /// may not: then the test is recorded as not run.
    pub(super) fn open<const N: usize>(names: [&str; N]) -> Option<Self> {
        skips::is_root().then(|| Self::new(names))
    }

    fn new<const N: usize>(names: [&str; N]) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let name = |name: &str| format!("prk-{process}-{number}-{name}");
        let net = Self {
            names: names.map(name).to_vec(),
        };
        for name in &net.names {
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        net
    }

    /// Returns the full name of a namespace.
    pub(super) fn name(&self, short: &str) -> &str {
        let end = format!("-{short}");
        self.names.iter().find(|name| name.ends_with(&end)).unwrap()
    }

    /// Connects two namespaces by a pair of devices with addresses (`10.0.0.1/24`).
    pub(super) fn cable(&self, ends: [(&str, &str, &[&str]); 2]) {
        let [(a, a_device, _), (b, b_device, _)] = ends;
        ip(&[
            "-n",
            self.name(a),
            "link",
            "add",
            a_device,
            "type",
            "veth",
            "peer",
            "name",
            b_device,
            "netns",
            self.name(b),
        ]);
        for (namespace, device, addresses) in ends {
            for address in addresses {
                let mut arguments = vec![
                    "-n",
                    self.name(namespace),
                    "address",
                    "add",
                    address,
                    "dev",
                    device,
                ];
                if address.contains(':') {
                    arguments.push("nodad");
                }
                ip(&arguments);
            }
            ip(&["-n", self.name(namespace), "link", "set", device, "up"]);
        }
    }

    /// Runs `ip` for one namespace.
    pub(super) fn ip(&self, short: &str, arguments: &str) {
        let mut all = vec!["-n", self.name(short)];
        all.extend(arguments.split(' '));
        ip(&all);
    }

    /// Runs `tc` in one namespace, and returns its output.
    pub(super) fn tc(&self, short: &str, arguments: &str) -> String {
        let mut all = vec!["netns", "exec", self.name(short), "tc"];
        all.extend(arguments.split(' '));
        ip(&all)
    }

    /// Adds rules of nftables in one namespace.
    pub(super) fn nft(&self, short: &str, rules: &str) {
        let mut nft = Command::new("ip")
            .args(["netns", "exec", self.name(short), "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = nft.stdin.take().unwrap();
        input.write_all(rules.as_bytes()).unwrap();
        drop(input);
        assert!(nft.wait().unwrap().success(), "{rules}");
    }

    /// Adds a device, if this kernel has devices of that type; the test is recorded as not run when not.
    pub(super) fn add(&self, short: &str, link: &str, kind: &str) -> bool {
        let output = Command::new("ip")
            .args(["-n", self.name(short), "link", "add"])
            .args(link.split(' '))
            .arg("type")
            .args(kind.split(' '))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        let unknown = error.contains("Unknown device type") || error.contains("not supported");
        assert!(output.status.success() || unknown, "{link}: {error}");
        if unknown {
            skips::record(&format!("this kernel has no devices of type {kind}"));
        }
        !unknown
    }

    /// Runs `work` on a thread of a namespace. Threads and sockets that it makes belong there too.
    pub(super) fn run<T: Send>(&self, short: &str, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name(short))).unwrap();
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // SAFETY: changes only this thread, which ends with `work`.
                let entered = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(entered, 0, "{}", std::io::Error::last_os_error());
                work()
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in &self.names {
            Command::new("ip")
                .args(["netns", "delete", name])
                .status()
                .ok();
        }
    }
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "ip {}: {error}",
        arguments.join(" ")
    );
    String::from_utf8(output.stdout).unwrap()
}
