//! The relay's keys, kept in its state directory so that a restart is the same tailnet device.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::relay::{persistence::SealKey, private};
use relay_proto::{DiscoSecret, Keys};
use serde::{Deserialize, Serialize};
use ts_keys::{
    DiscoKeyPair, DiscoPrivateKey, Export, ExportableKey, MachineKeyPair, NetworkLockKeyPair,
    NodeKeyPair, PersistState,
};

const FILE: &str = "identity.json";
/// The file while it is written.
const DRAFT: &str = "identity.json.new";
/// Empty file beside it, locked while a relay uses the identity.
const LOCK: &str = "lock";
/// File beside it, made when control has let the device in: empty, or with [`WITHOUT_TAGS`]. The
/// file with the keys is never written again.
const REGISTERED: &str = "registered";
/// Says that control has let the device in without the tags that it asked for.
const WITHOUT_TAGS: &str = "without-tags";
const VERSION: u32 = 1;

/// Keys of the tailnet device, and the disco keys of this run.
#[derive(Clone)]
pub struct Identity {
    /// Authenticates the host to control.
    pub machine: MachineKeyPair,
    /// Authenticates the device to control and DERP.
    pub node: NodeKeyPair,
    /// Names the device in tailnet lock.
    pub network_lock: NetworkLockKeyPair,
    /// Device's disco key, as the network map shows it; new with each start, as tailscaled's,
    /// unless it is adopted.
    pub disco: DiscoKeyPair,
    server: DiscoKeyPair,
    marker: PathBuf,
    /// Held for as long as anyone uses the identity.
    _lock: Arc<File>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    keys: PersistState,
}

/// Error from opening the identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The directory or the file cannot be used.
    #[error("failed to use state directory {dir}: it must be writable and owned by this user")]
    Io {
        /// The state directory.
        dir: PathBuf,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// The path is that of a file.
    #[error("state directory {dir} is a file: give a directory with --state-dir")]
    File {
        /// Path of the file that stands in place of a directory.
        dir: PathBuf,
    },
    /// Two relays with one identity would throw each other out of the tailnet.
    #[error("state directory {dir} is in use by another relay: give each its own with --state-dir")]
    InUse {
        /// The state directory.
        dir: PathBuf,
    },
    /// The file is there and makes no sense; it is not overwritten.
    #[error(
        "failed to read identity {path}: restore it from a backup, or remove it to start as a new \
         tailnet device"
    )]
    Damaged {
        /// File of the identity.
        path: PathBuf,
    },
}

impl Identity {
    /// The identity in `dir`, made if there is none. The directory gets mode 0700, the file 0600.
    ///
    /// # Errors
    /// The directory cannot be used, or the file in it is damaged.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let fail = |source| IdentityError::Io {
            dir: dir.to_owned(),
            source,
        };
        let mut builder = fs::DirBuilder::new();
        let created = builder.recursive(true).mode(0o700).create(dir);
        created.map_err(|error| match dir.is_file() {
            true => IdentityError::File {
                dir: dir.to_owned(),
            },
            false => fail(error),
        })?;
        restrict(dir).map_err(fail)?;
        let lock = lock(dir)?;
        let path = dir.join(FILE);
        let keys = match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(Stored {
                    version: VERSION,
                    keys,
                }) => keys,
                _ => return Err(IdentityError::Damaged { path }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let keys = PersistState::default();
                write_atomically(
                    dir,
                    &Stored {
                        version: VERSION,
                        keys: keys.clone(),
                    },
                )
                .map_err(fail)?;
                keys
            }
            Err(error) => return Err(fail(error)),
        };
        Ok(Self {
            machine: keys.machine_key.import(),
            node: keys.node_key.import(),
            network_lock: keys.network_lock_key.import(),
            disco: DiscoKeyPair::random(),
            server: DiscoKeyPair::random(),
            marker: dir.join(REGISTERED),
            _lock: Arc::new(lock),
        })
    }

    /// Removes the identity in `dir`, so that the next relay there is a new device.
    ///
    /// # Errors
    /// A relay uses the identity, or the directory cannot be used.
    pub fn remove(dir: &Path) -> Result<(), IdentityError> {
        let _lock = lock(dir)?;
        // In this order, an interruption leaves no keys that count as registered without being so.
        for file in [REGISTERED, FILE, DRAFT, LOCK] {
            match fs::remove_file(dir.join(file)) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(IdentityError::Io {
                        dir: dir.to_owned(),
                        source,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns whether control has let this device in before: then it needs no auth key.
    pub fn is_registered(&self) -> bool {
        self.marker.exists()
    }

    /// Returns whether control has let this device in without the tags that it asked for.
    pub fn is_without_tags(&self) -> bool {
        fs::read_to_string(&self.marker).is_ok_and(|text| text.trim() == WITHOUT_TAGS)
    }

    /// Remembers that control has let this device in, and whether without the tags that it asked
    /// for. Failing to is harmless: the auth key is used once more.
    pub fn mark_registered(&self, without_tags: bool) {
        let text = if without_tags { WITHOUT_TAGS } else { "" };
        if let Err(error) = fs::write(&self.marker, text) {
            tracing::warn!(%error, "the state directory is not writable any more");
        }
    }

    /// Returns the command with which a device with a trusted key signs this device for Tailnet Lock.
    pub fn sign_command(&self) -> String {
        let key = self.network_lock.public.to_string();
        // Commands show keys of Tailnet Lock with another prefix than the protocol has.
        let key = key.strip_prefix("nlpub:").unwrap_or(&key);
        format!("tailscale lock sign {} tlpub:{key}", self.node.public)
    }

    /// Goes on with the disco keys of the last run: clients know the relay by them.
    pub fn adopt(&mut self, keys: &Keys) {
        let pair = |secret: &DiscoSecret| {
            DiscoKeyPair::from(Export::<DiscoPrivateKey>::from_bytes(*secret.bytes()).import())
        };
        self.disco = pair(&keys.node);
        self.server = pair(&keys.server);
    }

    /// Seals what only a relay with this identity may read.
    pub fn seal_key(&self, port: u16) -> SealKey {
        SealKey::new(self.node.private.export().as_bytes(), port)
    }

    /// The disco keys as the protocol core takes them.
    pub fn relay_keys(&self) -> Keys {
        let secret =
            |pair: &DiscoKeyPair| DiscoSecret::from_bytes(*pair.private.export().as_bytes());
        Keys {
            node: secret(&self.disco),
            server: secret(&self.server),
        }
    }
}

/// Takes the lock of the identity in a directory that exists.
fn lock(dir: &Path) -> Result<File, IdentityError> {
    let fail = |source| IdentityError::Io {
        dir: dir.to_owned(),
        source,
    };
    // The lock counts, and not the file: the kernel releases it also when the process is killed.
    let lock = File::create(dir.join(LOCK)).map_err(fail)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(IdentityError::InUse {
            dir: dir.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}

/// Closes a directory to other users. One that is closed already is left alone, because only its owner may
/// change its mode.
fn restrict(dir: &Path) -> io::Result<()> {
    let mode = fs::metadata(dir)?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

fn write_atomically(dir: &Path, stored: &Stored) -> io::Result<()> {
    let draft = dir.join(DRAFT);
    let mut file = private::create(&draft)?;
    file.write_all(&serde_json::to_vec(stored)?)?;
    file.sync_all()?;
    fs::rename(&draft, dir.join(FILE))?;
    // The rename too must survive a crash, or the relay would start as a new device.
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn the_command_that_signs_a_device_names_both_keys_as_tailscale_does() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load(&dir.path().join("state")).unwrap();
        let command = identity.sign_command();
        let words: Vec<_> = command.split(' ').collect();
        let [program @ .., node, lock] = &words[..] else {
            panic!("{command}");
        };
        assert_eq!(program, ["tailscale", "lock", "sign"]);
        for (key, prefix) in [(node, "nodekey:"), (lock, "tlpub:")] {
            let digits = key.strip_prefix(prefix).unwrap();
            assert_eq!(digits.len(), 64, "{key}");
            assert!(digits.bytes().all(|c| c.is_ascii_hexdigit()), "{key}");
        }
    }

    #[test]
    fn restart_is_the_same_device_with_new_disco_keys() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = Identity::load(&state).unwrap();
        let error = Identity::load(&state).err().unwrap();
        assert!(matches!(error, IdentityError::InUse { .. }));
        let (node, machine, disco) = (first.node.public, first.machine.public, first.disco.public);
        drop(first);
        let second = Identity::load(&state).unwrap();
        assert_eq!(node, second.node.public);
        assert_eq!(machine, second.machine.public);
        assert_ne!(disco, second.disco.public);
        assert_eq!(
            fs::metadata(&state).unwrap().permissions().mode() & 0o777,
            0o700
        );
        let file = state.join(FILE);
        assert_eq!(
            fs::metadata(file).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_removed_identity_leaves_nothing_and_the_next_device_is_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::load(dir.path()).unwrap();
        first.mark_registered(false);
        let error = Identity::remove(dir.path()).unwrap_err();
        assert!(matches!(error, IdentityError::InUse { .. }));
        assert!(first.is_registered());
        let (node, machine) = (first.node.public, first.machine.public);
        drop(first);
        Identity::remove(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        Identity::remove(dir.path()).unwrap();

        let next = Identity::load(dir.path()).unwrap();
        assert!(!next.is_registered());
        assert_ne!(node, next.node.public);
        assert_ne!(machine, next.machine.public);
    }

    #[test]
    fn a_restart_knows_that_control_let_the_device_in_without_tags() {
        let dir = tempfile::tempdir().unwrap();
        let seen = || {
            let identity = Identity::load(dir.path()).unwrap();
            (identity.is_registered(), identity.is_without_tags())
        };
        assert_eq!(seen(), (false, false));
        for without_tags in [true, false, true] {
            let identity = Identity::load(dir.path()).unwrap();
            identity.mark_registered(without_tags);
            drop(identity);
            assert_eq!(seen(), (true, without_tags));
        }
        // As earlier versions left it.
        fs::write(dir.path().join(REGISTERED), []).unwrap();
        assert_eq!(seen(), (true, false));
    }

    #[test]
    fn damaged_identity_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), b"{\"version\":1,").unwrap();
        let error = Identity::load(dir.path()).err().unwrap();
        assert!(
            error.to_string().contains("remove it to start as a new"),
            "{error}"
        );
        assert_eq!(fs::read(dir.path().join(FILE)).unwrap(), b"{\"version\":1,");
    }
}
