//! Remedies for the reasons of conditions, from the tables of `docs/conditions.md`.

use std::{collections::BTreeMap, sync::LazyLock};

use regex::Regex;

/// Document with the table of reasons.
const DOCUMENT: &str = include_str!("../../docs/conditions.md");

static REMEDIES: LazyLock<BTreeMap<&'static str, String>> = LazyLock::new(|| {
    let rows = DOCUMENT.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|');
        let reason = cells.next()?.trim_end().strip_suffix('`')?;
        let remedy = cells.nth(1)?;
        Some((reason, plain(remedy)))
    });
    rows.filter(|(_, remedy)| !remedy.is_empty()).collect()
});

/// Object that has the problem, for the placeholders in remedies.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Namespace of the PeerRelay.
    pub namespace: &'a str,
    /// Name of the PeerRelay.
    pub name: &'a str,
    /// Name of the Secret with its credential.
    pub secret: Option<&'a str>,
}

/// Returns the remedy for a reason of a condition, with the names of the object. Reasons that are no
/// problem have none.
pub fn remedy(reason: &str, subject: Subject<'_>) -> Option<String> {
    let text = REMEDIES.get(reason)?;
    let text = text.replace("NAMESPACE", subject.namespace);
    let text = text.replace("NAME-grants", &format!("{}-grants", subject.name));
    Some(match subject.secret {
        Some(secret) => text.replace("generic NAME ", &format!("generic {secret} ")),
        None => text,
    })
}

/// Returns Markdown as plain text.
fn plain(markdown: &str) -> String {
    static LINK: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\[([^\]]*)\]\([^)]*\)").expect("the expression is constant"));
    LINK.replace_all(markdown.trim(), "$1").replace('`', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::relay_reason::RelayReason;

    const SUBJECT: Subject<'_> = Subject {
        namespace: "relays",
        name: "edge",
        secret: Some("tailnet-auth"),
    };

    #[test]
    fn each_reason_of_a_relay_has_a_remedy() {
        for reason in RelayReason::ALL {
            let remedy = remedy(reason.as_str(), SUBJECT);
            assert!(remedy.is_some_and(|text| text.len() > 10), "{reason:?}");
        }
        assert_eq!(remedy("RelaysReady", SUBJECT), None);
    }

    #[test]
    fn remedies_name_the_object() {
        assert_eq!(
            remedy("AuthKeyMissing", SUBJECT).as_deref(),
            Some(
                "kubectl create secret generic tailnet-auth -n relays --from-file=authkey=FILE; \
                 nodes see it within about a minute"
            )
        );
        let grants = remedy("GrantsMissing", SUBJECT).unwrap_or_default();
        assert!(grants.contains("ConfigMap edge-grants"), "{grants}");
        let pods = remedy("PodSecurityForbidden", SUBJECT).unwrap_or_default();
        assert!(
            pods.starts_with("kubectl label namespace relays "),
            "{pods}"
        );
    }
}
