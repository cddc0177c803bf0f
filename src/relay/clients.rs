//! Which entries of the configured `clients` have devices, and which ask for sessions.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;

use crate::grants::{Device, Selector};

/// Entries that are told apart; the CRD allows no more.
const MOST: usize = 256;
/// The time of a request is told anew after this long.
const FRESH: Duration = Duration::from_secs(300);

/// The entries of `clients`, shared by all who use them. No device is remembered.
#[derive(Debug, Clone, Default)]
pub struct Clients(Arc<Mutex<Vec<Client>>>);

#[derive(Debug, Clone)]
struct Client {
    selector: Selector,
    since: Timestamp,
    asked: Option<Timestamp>,
}

/// An entry of `clients` as reports tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientView {
    /// The entry.
    pub client: String,
    /// Its devices; `None` where the network map does not say which they are.
    pub devices: Option<Devices>,
    /// Since when requests are counted.
    pub since: Timestamp,
    /// The last request that was granted, up to five minutes old.
    pub asked: Option<Timestamp>,
}

/// Devices of an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Devices {
    /// Devices in the network map.
    pub known: usize,
    /// Those of them that may use this relay.
    pub granted: usize,
}

impl Clients {
    /// Replaces the entries. Those that stay keep their times; one that is no selector is left out.
    pub fn set(&self, texts: &[String], now: Timestamp) {
        let mut clients = self.lock();
        let client = |text: &String| {
            if let Some(known) = clients.iter().find(|c| c.selector.text() == text) {
                return Some(known.clone());
            }
            let selector = Selector::parse(text).inspect_err(|error| {
                tracing::warn!(%error, "an entry of clients is not used");
            });
            Some(Client {
                selector: selector.ok()?,
                since: now,
                asked: None,
            })
        };
        *clients = texts.iter().filter_map(client).take(MOST).collect();
    }

    /// Notes that a device asked for a session and got it. Returns whether that is worth telling.
    pub fn note(&self, device: &Device<'_>, now: Timestamp) -> bool {
        let mut news = false;
        for client in self.lock().iter_mut() {
            let is_old = |asked: Timestamp| {
                let age = Duration::try_from(now.duration_since(asked));
                age.unwrap_or_default() >= FRESH
            };
            if client.asked.is_none_or(is_old) && client.selector.names(device) {
                client.asked = Some(now);
                news = true;
            }
        }
        news
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Every entry, with its devices among `devices`; `true` is for those that may use this relay.
    pub fn views(&self, devices: &[(Device<'_>, bool)]) -> Vec<ClientView> {
        let view = |client: &Client| {
            let named = devices.iter().filter(|(d, _)| client.selector.names(d));
            let count = named.fold(Devices::default(), |count, (_, granted)| Devices {
                known: count.known + 1,
                granted: count.granted + usize::from(*granted),
            });
            ClientView {
                client: client.selector.text().to_owned(),
                devices: client.selector.is_resolvable().then_some(count),
                since: client.since,
                asked: client.asked,
            }
        };
        self.lock().iter().map(view).collect()
    }

    /// Brings the times of requests in `views` up to date.
    pub fn tell(&self, views: &mut [ClientView]) {
        let clients = self.lock();
        for view in views {
            let mut known = clients.iter();
            if let Some(client) = known.find(|c| c.selector.text() == view.client) {
                view.asked = client.asked;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Client>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        assert!(clients.note(&device, NOW));
        assert!(!clients.note(&device, NOW + Duration::from_secs(299)));
        let later = NOW + Duration::from_secs(300);
        assert!(clients.note(&device, later));

        let told = |clients: &Clients| -> Vec<_> {
            let views = clients.views(&[(self::device(&tags), true), (self::device(&tags), false)]);
            let view = |v: ClientView| (v.client, v.devices.map(|d| (d.known, d.granted)), v.asked);
            views.into_iter().map(view).collect()
        };
        let (a, b) = ("tag:a".to_owned(), "tag:b".to_owned());
        let seen = (a.clone(), Some((2, 1)), Some(later));
        let unseen = (b, Some((0, 0)), None);
        let unknown = ("group:eng".to_owned(), None, None);
        assert_eq!(told(&clients), [seen.clone(), unseen, unknown]);

        clients.set(&texts(&["tag:c", "tag:a"]), later);
        assert_eq!(told(&clients)[1], seen, "an entry that stays is counted on");
        let since: Vec<_> = clients.views(&[]).iter().map(|v| v.since).collect();
        assert_eq!(since, [later, NOW]);
    }

    #[test]
    fn there_are_no_more_entries_than_a_region_may_have() {
        let clients = Clients::default();
        let many: Vec<_> = (0..300).map(|n| format!("tag:a{n}")).collect();
        clients.set(&many, NOW);
        assert_eq!(clients.views(&[]).len(), MOST);
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
