//! Entries of the configured `clients`: the devices that each names, and their requests for sessions.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use tokio::sync::Notify;

use crate::grants::{Device, Selector};

/// Largest number of entries; the CRD allows no more.
const MAX_ENTRIES: usize = 256;
/// Time after which a further request of an entry is recorded again.
const RECORD_INTERVAL: Duration = Duration::from_secs(300);

/// Entries of `clients`; clones share them. No device is stored.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    entries: Arc<Mutex<Vec<ClientEntry>>>,
    recorded: Arc<Notify>,
}

#[derive(Debug, Clone)]
struct ClientEntry {
    selector: Selector,
    since: Timestamp,
    asked: Option<Timestamp>,
}

/// An entry of `clients` as reports show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientView {
    /// Text of the entry.
    pub client: String,
    /// Its devices; `None` where the network map does not tell which they are.
    pub devices: Option<Devices>,
    /// Time from which on requests are recorded.
    pub since: Timestamp,
    /// Time of the last granted request, up to five minutes old.
    pub asked: Option<Timestamp>,
}

/// Numbers of devices that an entry names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Devices {
    /// Devices in the network map.
    pub known: usize,
    /// Devices in the network map that may use this relay.
    pub granted: usize,
}

impl Clients {
    /// Replaces the entries. Entries that stay keep their times; one that is no selector is left out.
    pub fn set(&self, texts: &[String], now: Timestamp) {
        let mut clients = self.lock();
        let client = |text: &String| {
            if let Some(previous) = clients.iter().find(|c| c.selector.text() == text) {
                return Some(previous.clone());
            }
            let selector = Selector::parse(text).inspect_err(|error| {
                tracing::warn!(%error, "an entry of clients is not used");
            });
            Some(ClientEntry {
                selector: selector.ok()?,
                since: now,
                asked: None,
            })
        };
        *clients = texts.iter().filter_map(client).take(MAX_ENTRIES).collect();
    }

    /// Records that a device asked for a session and got it. Returns whether the time of a request
    /// has changed, for which [`Clients::recorded`] waits.
    pub fn record_request(&self, device: &Device<'_>, now: Timestamp) -> bool {
        let mut changed = false;
        for entry in self.lock().iter_mut() {
            let is_old = |asked: Timestamp| {
                let age = Duration::try_from(now.duration_since(asked));
                age.unwrap_or_default() >= RECORD_INTERVAL
            };
            if entry.asked.is_none_or(is_old) && entry.selector.names(device) {
                entry.asked = Some(now);
                changed = true;
            }
        }
        if changed {
            self.recorded.notify_one();
        }
        changed
    }

    /// Waits until the time of a request has changed.
    pub async fn recorded(&self) {
        self.recorded.notified().await;
    }

    /// Returns every entry with its devices among `devices`, of which those with `true` may use this
    /// relay.
    pub fn views<'a>(
        &self,
        devices: impl IntoIterator<Item = (Device<'a>, bool)>,
    ) -> Vec<ClientView> {
        // Requests are recorded meanwhile.
        let entries = self.lock().clone();
        let mut counts = vec![Devices::default(); entries.len()];
        if !entries.is_empty() {
            for (device, granted) in devices {
                let named = counts.iter_mut().zip(&entries);
                for (count, _) in named.filter(|(_, entry)| entry.selector.names(&device)) {
                    count.known += 1;
                    count.granted += usize::from(granted);
                }
            }
        }
        let view = |(entry, count): (ClientEntry, Devices)| ClientView {
            client: entry.selector.text().to_owned(),
            devices: entry.selector.is_resolvable().then_some(count),
            since: entry.since,
            asked: entry.asked,
        };
        let mut views: Vec<_> = entries.into_iter().zip(counts).map(view).collect();
        self.refresh(&mut views);
        views
    }

    /// Brings the times of requests in `views` up to date.
    pub fn refresh(&self, views: &mut [ClientView]) {
        let clients = self.lock();
        for view in views {
            let mut entries = clients.iter();
            if let Some(entry) = entries.find(|e| e.selector.text() == view.client) {
                view.asked = entry.asked;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ClientEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_767_139_200, 0);

    #[test]
    fn requests_are_noted_for_each_entry_that_names_the_device() {
        let clients = Clients::default();
        clients.set(&texts(&["tag:a", "tag:b", "group:eng", "a b"]), NOW);
        let tags = texts(&["tag:a"]);
        let device = device(&tags);
        assert!(clients.record_request(&device, NOW));
        assert!(!clients.record_request(&device, NOW + Duration::from_secs(299)));
        let later = NOW + Duration::from_secs(300);
        assert!(clients.record_request(&device, later));

        let shown = |clients: &Clients| -> Vec<_> {
            let views = clients.views([(self::device(&tags), true), (self::device(&tags), false)]);
            let view = |v: ClientView| (v.client, v.devices.map(|d| (d.known, d.granted)), v.asked);
            views.into_iter().map(view).collect()
        };
        let (a, b) = ("tag:a".to_owned(), "tag:b".to_owned());
        let seen = (a.clone(), Some((2, 1)), Some(later));
        let unseen = (b, Some((0, 0)), None);
        let unknown = ("group:eng".to_owned(), None, None);
        assert_eq!(shown(&clients), [seen.clone(), unseen, unknown]);

        clients.set(&texts(&["tag:c", "tag:a"]), later);
        assert_eq!(
            shown(&clients)[1],
            seen,
            "an entry that stays keeps its time"
        );
        let since: Vec<_> = clients.views([]).iter().map(|v| v.since).collect();
        assert_eq!(since, [later, NOW]);
    }

    #[test]
    fn there_are_no_more_entries_than_a_region_may_have() {
        let clients = Clients::default();
        let many: Vec<_> = (0..300).map(|n| format!("tag:a{n}")).collect();
        clients.set(&many, NOW);
        assert_eq!(clients.views([]).len(), MAX_ENTRIES);
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    fn device(tags: &[String]) -> Device<'_> {
        Device {
            tags,
            login: None,
            addresses: Vec::new(),
        }
    }
}
