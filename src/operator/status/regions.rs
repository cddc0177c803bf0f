//! Regions without a relay, which are never ready.

use std::collections::BTreeMap;

use super::{
    condition::{LONGEST_MESSAGE, cut, some},
    pods::port_conflict,
};
use crate::{crd::peer_relay::RegionStatus, operator::plan::Region};

/// Most names in a message.
const NAMED: usize = 5;

labels::label_enum! {
    /// Reason why a region has no relay and will get none by itself, as conditions carry it. The
    /// reason of most weight comes first.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub(super) enum Vacancy {
        /// No node fits the placement.
        NoNodes,
        /// Other PeerRelays have a port of all nodes that fit.
        HostPortConflict,
        /// Other regions of the PeerRelay have all nodes that fit.
        NodesTaken,
        /// The total of relays is used up.
        AllowanceExceeded,
        /// A relay of another region will be removed first.
        NodeAwaited = "RelaysStarting",
    }
}

impl Vacancy {
    /// Returns whether it ends without any action.
    pub(super) const fn passes(self) -> bool {
        matches!(self, Self::NodeAwaited)
    }

    /// Returns whether only a change by the user, of this object or of another, ends it.
    pub(super) const fn needs_user(self) -> bool {
        matches!(self, Self::HostPortConflict | Self::AllowanceExceeded)
    }

    const fn message(self) -> &'static str {
        match self {
            Self::NoNodes => {
                "no node fits: check placement.nodeSelector, affinity, zones and tolerations"
            }
            Self::HostPortConflict => "another PeerRelay has a port of every node that fits",
            Self::NodesTaken => {
                "every node that fits has a relay of another region on the host network: add nodes, \
                 or let placement.maxRelays of the other regions leave one"
            }
            Self::AllowanceExceeded => {
                "maxRelays allows no further relay: raise it if your plan allows more, or remove a \
                 region"
            }
            Self::NodeAwaited => "a relay of another region makes way",
        }
    }

    /// Returns the reason why `region` has no relay. `None` if relays are planned.
    pub(super) fn of(region: Region<'_>, desired: i32) -> Option<Self> {
        if desired > 0 {
            return None;
        }
        let plan = &region.plan.nodes;
        let Some(chosen) = &plan.chosen else {
            return Some(Self::NoNodes);
        };
        match chosen.is_empty() {
            false => None,
            true if !plan.awaited.is_empty() => Some(Self::NodeAwaited),
            true if !plan.excess.is_empty() => Some(Self::AllowanceExceeded),
            true if plan.conflict.is_some() => Some(Self::HostPortConflict),
            true if plan.fitting > 0 => Some(Self::NodesTaken),
            true => Some(Self::NoNodes),
        }
    }
}

/// Regions without a relay by reason.
#[derive(Debug, Default)]
pub(super) struct Vacancies {
    regions: BTreeMap<Vacancy, Vec<String>>,
    /// Sentence about a port of a node, and the relay that has it.
    conflict: Option<String>,
}

impl Vacancies {
    /// Records that `region` has no relay.
    pub(super) fn record(&mut self, vacancy: Vacancy, region: Region<'_>) {
        let names = self.regions.entry(vacancy).or_default();
        names.push(region.name.clone());
        if let Some((node, port, holder)) = &region.plan.nodes.conflict {
            self.conflict
                .get_or_insert_with(|| port_conflict(node, port, holder));
        }
    }

    /// Returns the most severe reason, and a message that names its regions.
    pub(super) fn first(&self) -> Option<(Vacancy, String)> {
        let (vacancy, names) = self.regions.first_key_value()?;
        let named = some(names, NAMED, "");
        let regions = match names.len() {
            1 => "region",
            _ => "regions",
        };
        let why = match vacancy {
            Vacancy::HostPortConflict => self.conflict.as_deref(),
            _ => None,
        };
        let why = why.unwrap_or(vacancy.message());
        let message = format!("no relay in {regions} {named}: {why}");
        Some((*vacancy, cut(&message, LONGEST_MESSAGE)))
    }
}

/// Numbers of relays in regions that are not complete, as in "office 0/2". Empty with one region: the
/// total says the same.
pub(super) fn incomplete(regions: &[RegionStatus]) -> String {
    if regions.len() < 2 {
        return String::new();
    }
    let short: Vec<_> = regions
        .iter()
        .filter(|region| region.ready < region.desired)
        .map(|region| format!("{} {}/{}", region.name, region.ready, region.desired))
        .collect();
    some(&short, NAMED, "")
}
