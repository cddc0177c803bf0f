//! The program is accepted from a process with no more than the two capabilities that relays have:
//! without CAP_PERFMON the verifier is stricter.

use std::thread;

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::{permitted, wire::PORT};
use crate::relay::kernel::{Attachment, abi, program::Program, self_test};

#[test]
fn two_capabilities_are_enough_to_load_the_program() {
    if !permitted("two_capabilities_are_enough_to_load_the_program") {
        return;
    }
    // The loader looks once in a process at what the kernel can do: not with so few, or it would give
    // other tests' programs no name.
    drop(Program::load(None, 8, Attachment::Link).unwrap());
    // Capabilities are a thread's.
    let alone = thread::spawn(|| {
        let two = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
        let sets = CapabilitySets {
            effective: two,
            permitted: two,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets).unwrap();
        let (mut program, mut maps, _) = Program::load(None, 8, Attachment::Link).unwrap();
        let config = abi::Config {
            valid_until: u64::MAX,
            port: PORT,
            ..abi::Config::default()
        };
        maps.config.set(0, config.encode(), 0).unwrap();
        self_test::run(&program.fd().unwrap(), &mut maps, PORT).unwrap();
    });
    alone.join().unwrap();
}
