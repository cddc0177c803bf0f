//! The program is accepted from a process with no more than the two capabilities that relays have:
//! without CAP_PERFMON the verifier is stricter.

use std::thread;

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::{loaded, wire::PORT};
use crate::relay::kernel::self_test;

#[test]
fn two_capabilities_are_enough_to_load_the_program() {
    // The loader looks once in a process at what the kernel can do: not with so few, or it would give
    // other tests' programs no name.
    let Some(_loaded) = loaded(8) else { return };
    // Capabilities are a thread's.
    let alone = thread::spawn(|| {
        let two = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
        let sets = CapabilitySets {
            effective: two,
            permitted: two,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets).unwrap();
        let Some((mut program, mut maps)) = loaded(8) else {
            return;
        };
        self_test::run(&program.fd().unwrap(), &mut maps, PORT).unwrap();
    });
    alone.join().unwrap();
}
