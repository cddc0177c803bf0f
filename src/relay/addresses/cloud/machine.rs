//! The cloud that a machine is in, by its firmware. Nothing is sent to find out, and a machine that
//! names no cloud is in none.

use std::{fmt, fs, path::Path};

/// A cloud whose metadata service knows public addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cloud {
    Aws,
    Google,
    Azure,
    Oracle,
    Hetzner,
    DigitalOcean,
    OpenStack,
}

impl fmt::Display for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aws => "AWS",
            Self::Google => "Google Cloud",
            Self::Azure => "Azure",
            Self::Oracle => "Oracle Cloud",
            Self::Hetzner => "Hetzner Cloud",
            Self::DigitalOcean => "DigitalOcean",
            Self::OpenStack => "OpenStack",
        })
    }
}

/// Strings that the hypervisor wrote into the firmware's tables (SMBIOS), by the kernel's names.
/// Empty where it wrote nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Dmi {
    sys_vendor: String,
    product_name: String,
    bios_vendor: String,
    bios_version: String,
    chassis_asset_tag: String,
}

impl Dmi {
    /// Those in `directory`; what cannot be read is empty.
    pub(super) fn read(directory: &Path) -> Self {
        let string = |name: &str| {
            let text = fs::read_to_string(directory.join(name)).unwrap_or_default();
            text.trim().to_owned()
        };
        Self {
            sys_vendor: string("sys_vendor"),
            product_name: string("product_name"),
            bios_vendor: string("bios_vendor"),
            bios_version: string("bios_version"),
            chassis_asset_tag: string("chassis_asset_tag"),
        }
    }

    /// The cloud that they name.
    ///
    /// Of cloud-init's `tools/ds-identify`: the asset tags, `dscheck_GCE`, `dscheck_Hetzner`,
    /// `dscheck_DigitalOcean` and `dscheck_OpenStack`. Of Google's Go library: `Google` alone
    /// (`metadata.systemInfoSuggestsGCE`). Of Tailscale's `cloudenv.getCloud`: `Amazon EC2`; AWS
    /// instances on Xen say `4.11.amazon`, and what else tells them is for root only.
    pub(super) fn cloud(&self) -> Option<Cloud> {
        match &*self.chassis_asset_tag {
            "7783-7084-3265-9085-8269-3286-77" => return Some(Cloud::Azure),
            "OracleCloud.com" => return Some(Cloud::Oracle),
            "OpenStack Nova"
            | "OpenStack Compute"
            | "OpenTelekomCloud"
            | "SAP CCloud VM"
            | "HUAWEICLOUD"
            | "Samsung Cloud Platform" => return Some(Cloud::OpenStack),
            _ => {}
        }
        match (&*self.sys_vendor, &*self.product_name) {
            ("Amazon EC2", _) => Some(Cloud::Aws),
            (_, "Google Compute Engine") | ("Google", "Google") => Some(Cloud::Google),
            ("Hetzner", _) => Some(Cloud::Hetzner),
            ("DigitalOcean", _) => Some(Cloud::DigitalOcean),
            (_, "OpenStack Nova" | "OpenStack Compute") => Some(Cloud::OpenStack),
            _ if self.bios_vendor == "Amazon EC2" => Some(Cloud::Aws),
            _ if self.bios_version.ends_with(".amazon") => Some(Cloud::Aws),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    /// The cloud of a machine with these files.
    fn cloud(files: &[(&str, &str)]) -> Option<Cloud> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), format!("{text}\n")).unwrap();
        }
        Dmi::read(directory.path()).cloud()
    }

    #[test]
    fn each_cloud_is_known_by_what_its_machines_say() {
        let tag = "chassis_asset_tag";
        for (files, wanted) in [
            (&[("sys_vendor", "Amazon EC2")][..], Cloud::Aws),
            (&[("bios_vendor", "Amazon EC2")], Cloud::Aws),
            (
                &[("sys_vendor", "Xen"), ("bios_version", "4.11.amazon")],
                Cloud::Aws,
            ),
            (
                &[
                    ("sys_vendor", "Google"),
                    ("product_name", "Google Compute Engine"),
                ],
                Cloud::Google,
            ),
            (
                &[("sys_vendor", "Google"), ("product_name", "Google")],
                Cloud::Google,
            ),
            (
                &[
                    ("sys_vendor", "Microsoft Corporation"),
                    ("product_name", "Virtual Machine"),
                    (tag, "7783-7084-3265-9085-8269-3286-77"),
                ],
                Cloud::Azure,
            ),
            (
                &[("sys_vendor", "QEMU"), (tag, "OracleCloud.com")],
                Cloud::Oracle,
            ),
            (
                &[("sys_vendor", "Hetzner"), ("product_name", "vServer")],
                Cloud::Hetzner,
            ),
            (
                &[("sys_vendor", "DigitalOcean"), ("product_name", "Droplet")],
                Cloud::DigitalOcean,
            ),
            (
                &[
                    ("sys_vendor", "OpenStack Foundation"),
                    ("product_name", "OpenStack Nova"),
                ],
                Cloud::OpenStack,
            ),
            (&[(tag, "OpenTelekomCloud")], Cloud::OpenStack),
        ] {
            assert_eq!(cloud(files), Some(wanted), "{files:?}");
        }
    }

    #[test]
    fn other_machines_are_in_no_cloud() {
        for files in [
            &[][..],
            &[
                ("sys_vendor", "QEMU"),
                ("product_name", "Standard PC (Q35 + ICH9, 2009)"),
            ],
            // Hyper-V on one's own machine, a Chromebook, Xen that is not Amazon's.
            &[
                ("sys_vendor", "Microsoft Corporation"),
                ("product_name", "Virtual Machine"),
                ("chassis_asset_tag", "0000-0010-6128-7437-5063-2411-02"),
            ],
            &[("sys_vendor", "Google"), ("product_name", "Eve")],
            &[("sys_vendor", "Xen"), ("bios_version", "4.11.4-pre")],
        ] {
            assert_eq!(cloud(files), None, "{files:?}");
        }
    }
}
