//! Tests of cargo that did not run: all are shown, and those that are not expected to be missing fail
//! the run.

use std::path::Path;

use anyhow::{Result, ensure};
use rig::progress::Progress;
use skips::Allowed;

/// Tests that `cargo dev test` does without.
const ALLOWED: [Allowed; 6] = [
    Allowed {
        test: "kernel_forwards_on_a_bond",
        reason: "no devices of type bond",
        because: "kernels of small virtual machines come without the bonding driver",
    },
    Allowed {
        test: "kernel_forwards_on_a_vlan",
        reason: "no devices of type vlan",
        because: "kernels of small virtual machines come without 802.1Q",
    },
    Allowed {
        test: "files_of_terraform_are_what_terraform_writes_itself",
        reason: "there is no terraform",
        because: "no package registry has terraform; a machine that has it checks the format",
    },
    Allowed {
        test: "aws_understands_its_commands",
        reason: "there is no aws",
        because: "the tool is large; bash reads the same output on every machine",
    },
    Allowed {
        test: "gcloud_understands_its_commands",
        reason: "there is no gcloud",
        because: "no package registry has gcloud; bash reads the same output on every machine",
    },
    Allowed {
        test: "ufw_understands_its_commands",
        reason: "there is no ufw",
        because: "installing ufw changes the machine's firewall",
    },
];

/// Shows the tests that `file` names; returns how many there are.
///
/// # Errors
/// One of them is not in [`ALLOWED`].
pub(crate) fn check(file: &Path, progress: &Progress) -> Result<usize> {
    let skipped = skips::read(file)?;
    let mut unexpected = Vec::new();
    for skip in &skipped {
        let allowed = ALLOWED.iter().find(|allowed| allowed.allows(skip));
        let because = allowed.map_or("NOT EXPECTED", |allowed| allowed.because);
        let (test, reason) = (&skip.test, &skip.reason);
        progress.line(format_args!("not run: {test}: {reason} ({because})"));
        if allowed.is_none() {
            unexpected.push(test.as_str());
        }
    }
    ensure!(
        unexpected.is_empty(),
        "tests did not run: {}; give this machine what they lack, or name them with a reason in \
         tests/dev/src/skipped.rs",
        unexpected.join(", ")
    );
    Ok(skipped.len())
}
