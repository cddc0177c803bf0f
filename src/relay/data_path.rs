//! Which path forwards: chosen when the relay starts, watched while it runs.

use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;

use super::{
    kernel::{
        self, Attachment, KernelOptions, KernelPath, PathState, Unavailable, UnavailableReason,
    },
    options::RelayOptions,
    socket_path::PortState,
    state::{self, Problem, RelayState},
};
use crate::config::data_path::DataPath;

/// How long the kernel goes on forwarding for a relay that was told to stop: a pod is replaced in
/// less; a relay that was removed, or forwards by sockets from now on, shall not wait for long.
pub(super) const LEFT: Duration = Duration::from_secs(15);

/// The kernel path, or why there is none.
pub(super) fn start(options: &RelayOptions) -> Result<KernelPath, Unavailable> {
    if options.data_path == DataPath::Socket {
        return Err(Unavailable::new(
            UnavailableReason::Chosen,
            "sockets forward because dataPath is Socket",
        ));
    }
    kernel::start(kernel_options(options))
}

/// Ends what an earlier relay has left in the kernel: the sockets forward from now on.
pub(super) fn discard(options: &RelayOptions) {
    kernel::discard(&kernel_options(options));
}

fn kernel_options(options: &RelayOptions) -> KernelOptions {
    KernelOptions {
        pins: KernelOptions::pins_of(options.port),
        attachment: Attachment::of(options.port),
        ..KernelOptions::new(&options.limits)
    }
}

/// Gives the kernel path the port, and shows which path forwards.
pub(super) async fn watch(
    wanted: DataPath,
    kernel: Result<KernelPath, Unavailable>,
    mut port: watch::Receiver<PortState>,
    state: watch::Sender<RelayState>,
) -> anyhow::Result<()> {
    let kernel = match kernel {
        Ok(kernel) => kernel,
        Err(error) => {
            show(wanted, PathState(Err(error)), &state);
            std::future::pending::<()>().await;
            return Ok(());
        }
    };
    let mut path = kernel.state();
    loop {
        match *port.borrow_and_update() {
            PortState::Bound(port) => kernel.set_port(Some(port)),
            PortState::Failed(_) => kernel.set_port(None),
            // What an earlier process left in the kernel goes on.
            PortState::Binding => {}
        }
        show(wanted, path.borrow_and_update().clone(), &state);
        tokio::select! {
            changed = port.changed() => changed.context("the data path has ended")?,
            changed = path.changed() => changed.context("the kernel path has ended")?,
        }
    }
}

fn show(wanted: DataPath, path: PathState, state: &watch::Sender<RelayState>) {
    state.send_if_modified(|state| {
        if state.path == path {
            return false;
        }
        match &path.0 {
            Ok(devices) => tracing::info!(devices, "the kernel forwards"),
            Err(error)
                if matches!(
                    error.reason,
                    UnavailableReason::Chosen | UnavailableReason::Starting
                ) =>
            {
                tracing::info!(reason = error.reason.as_str(), "sockets forward");
            }
            Err(error) => {
                let (reason, message) = (error.reason.as_str(), &error.message);
                tracing::warn!(reason, message, "sockets forward");
            }
        }
        state.path_problem = match &path.0 {
            Err(error) if wanted == DataPath::Kernel => Some(Problem::new(
                state::Reason::KernelPathUnavailable,
                format!("{error}; or set dataPath to Auto"),
            )),
            _ => None,
        };
        state.path = path;
        true
    });
}
