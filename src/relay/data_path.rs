//! Choice of the data path when the relay starts, and its state while the relay runs.

use std::{convert::Infallible, time::Duration};

use anyhow::Context;
use tokio::sync::watch;

use super::{
    kernel::{
        self, Attachment, KernelOptions, KernelPath, PathState, Unavailable, UnavailableReason,
    },
    options::RelayOptions,
    problem::Problem,
    socket_path::PortState,
    watch_ext::SendIfChanged,
};
use crate::{config::data_path::DataPath, crd::relay_reason::RelayReason};

/// Time for which the kernel goes on forwarding after the relay has stopped, unless it is known that
/// another relay follows. A pod whose image is on the node is replaced in less, and after a removal, or a
/// change to sockets, forwarding must end soon.
pub(super) const FORWARD_AFTER_STOP: Duration = Duration::from_secs(15);

/// Data path that forwards packets of open sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataPathState {
    /// State of the kernel path.
    pub path: PathState,
    /// Problem of a relay that must use the kernel path and cannot.
    pub problem: Option<Problem>,
}

/// Starts the kernel path, or returns why it cannot be used.
pub(super) fn start(options: &RelayOptions) -> Result<KernelPath, Unavailable> {
    if options.data_path == DataPath::Socket {
        return Err(Unavailable::new(
            UnavailableReason::Chosen,
            "sockets forward because dataPath is Socket",
        ));
    }
    kernel::start(kernel_options(options))
}

/// Removes the program that an earlier relay has left in the kernel, because sockets forward from
/// now on.
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

/// Keeps the kernel path at the port of the relay, and publishes which path forwards.
///
/// # Errors
/// The socket path or the kernel path has ended.
pub(super) async fn follow(
    wanted: DataPath,
    kernel: Result<KernelPath, Unavailable>,
    mut port: watch::Receiver<PortState>,
    state: watch::Sender<DataPathState>,
) -> anyhow::Result<Infallible> {
    let kernel = match kernel {
        Ok(kernel) => kernel,
        Err(error) => {
            publish(wanted, PathState(Err(error)), &state);
            return std::future::pending().await;
        }
    };
    let mut path = kernel.state();
    loop {
        match *port.borrow_and_update() {
            PortState::Bound(port) => kernel.set_port(Some(port)),
            PortState::Failed(_) => kernel.set_port(None),
            // The program that an earlier process left in the kernel goes on forwarding.
            PortState::Binding => {}
        }
        publish(wanted, path.borrow_and_update().clone(), &state);
        tokio::select! {
            changed = port.changed() => changed.context("the data path has ended")?,
            changed = path.changed() => changed.context("the kernel path has ended")?,
        }
    }
}

fn publish(wanted: DataPath, path: PathState, state: &watch::Sender<DataPathState>) {
    let problem = match &path.0 {
        Err(error) if wanted == DataPath::Kernel => Some(Problem::new(
            RelayReason::KernelPathUnavailable,
            format!("{error}; or set dataPath to Auto"),
        )),
        _ => None,
    };
    let next = DataPathState { path, problem };
    if !state.send_if_changed(next.clone()) {
        return;
    }
    match &next.path.0 {
        Ok(attached) => tracing::info!(devices = attached.devices, "the kernel forwards"),
        Err(error) => tracing::info!(reason = error.reason.as_str(), "sockets forward"),
    }
    if let Some(error) = next.path.shortfall().filter(|error| !is_expected(error)) {
        let reason = error.reason.as_str();
        tracing::warn!(reason, problem = %error.message, "the kernel path is missing or limited");
    }
}

/// Returns whether this is a reason for sockets that needs no attention.
fn is_expected(error: &Unavailable) -> bool {
    matches!(
        error.reason,
        UnavailableReason::Chosen | UnavailableReason::Starting
    )
}
