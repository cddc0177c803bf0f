//! Defaults of the operator for fields that PeerRelays leave empty.

use std::{collections::BTreeMap, time::Duration};

use serde::de::DeserializeOwned;

use super::overrides;
use crate::{
    crd::{
        monitoring::{ACTIONS, Monitoring, Relabeling},
        template::Template,
    },
    names,
};

/// Units of durations, in the order in which they are written, in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The operator's defaults for all PeerRelays.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// Image of relays.
    pub image: RelayImage,
    /// Defaults for `spec.monitoring`.
    pub monitoring: MonitoringDefaults,
    /// Defaults for `spec.template`, and variables of the relays.
    pub template: TemplateDefaults,
}

/// The image that relays run.
#[derive(Debug, Clone, Default)]
pub struct RelayImage {
    /// Image reference.
    pub reference: String,
    /// `imagePullPolicy`.
    pub pull_policy: String,
}

/// Defaults for `spec.monitoring` of all PeerRelays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MonitoringDefaults {
    /// Labels of each ServiceMonitor and PrometheusRule.
    pub labels: BTreeMap<String, String>,
    /// Time between two scrapes.
    pub interval: Option<String>,
    /// Time after which a scrape has failed.
    pub scrape_timeout: Option<String>,
    /// Changes of the labels of targets.
    pub relabelings: Vec<Relabeling>,
    /// Changes of scraped series.
    pub metric_relabelings: Vec<Relabeling>,
}

/// The reason for which a default cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidDefault {
    /// The text is not a label.
    #[error("{0:?} is not a label: write it as release=kube-prometheus-stack")]
    Label(String),
    /// The text is no duration.
    #[error("{0:?} is not a duration: write it as 30s or 1m30s")]
    Duration(String),
    /// prometheus-operator would refuse every ServiceMonitor.
    #[error("a scrape may take {timeout}, longer than the interval of {interval}: lower it")]
    TimeoutBeyondInterval {
        /// Timeout as the user wrote it.
        timeout: String,
        /// Interval as the user wrote it.
        interval: String,
    },
    /// The text is no list of rules.
    #[error(
        "relabelings are not a list of rules as in a ServiceMonitor, such as [{{\"targetLabel\": \"team\", \"replacement\": \"net\"}}]: {0}"
    )]
    Relabelings(String),
    /// The text is no template.
    #[error(
        "the template is not one as in spec.template of a PeerRelay, such as {{\"priorityClassName\": \"relays\"}}: {0}"
    )]
    Template(String),
    /// A field that only a PeerRelay may have.
    #[error("a template for all PeerRelays cannot have {0}: set it in spec.template of each")]
    TemplateField(&'static str),
    /// The text is no name of a variable with a value.
    #[error("{0:?} is not a variable: write it as HTTPS_PROXY=http://proxy.example.net:3128")]
    Variable(String),
    /// The operator or a field of PeerRelays sets the variable.
    #[error("{0} cannot be set for relays: remove it, and use the fields of PeerRelay")]
    OwnVariable(String),
}

/// Defaults for `spec.template` of all PeerRelays, and variables of their relays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TemplateDefaults {
    /// Template, without image and `podOverrides`.
    pub template: Template,
    /// Environment of the relays' containers.
    pub environment: BTreeMap<String, String>,
}

impl TemplateDefaults {
    /// Completes the template of a PeerRelay with defaults for empty fields, and for missing labels
    /// and annotations.
    pub fn complete(&self, mut own: Template) -> Template {
        let defaults = &self.template;
        for (defaults, own) in [
            (&defaults.labels, &mut own.labels),
            (&defaults.annotations, &mut own.annotations),
        ] {
            for (key, value) in defaults {
                own.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        if own.image_pull_secrets.is_empty() {
            own.image_pull_secrets
                .clone_from(&defaults.image_pull_secrets);
        }
        Template {
            resources: own.resources.or_else(|| defaults.resources.clone()),
            priority_class_name: own
                .priority_class_name
                .or_else(|| defaults.priority_class_name.clone()),
            update_strategy: own
                .update_strategy
                .or_else(|| defaults.update_strategy.clone()),
            ..own
        }
    }
}

/// Parses a template for all PeerRelays, JSON or YAML.
///
/// # Errors
/// It is no template, has an unknown field, or one that only a PeerRelay may have.
pub fn template(text: &str) -> Result<Template, InvalidDefault> {
    let template: Template = strict(text).map_err(InvalidDefault::Template)?;
    if template.image.is_some() {
        return Err(InvalidDefault::TemplateField(
            "image, which is --relay-image here",
        ));
    }
    if template.pod_overrides.is_some() {
        return Err(InvalidDefault::TemplateField("podOverrides"));
    }
    let labels = template.labels.iter();
    let mut labels = labels.map(|(key, value)| label(&format!("{key}={value}")));
    labels.try_for_each(|label| label.map(drop))?;
    Ok(template)
}

/// Parses `NAME=VALUE`.
///
/// # Errors
/// It has no name, or one that the operator sets itself.
pub fn variable(text: &str) -> Result<(String, String), InvalidDefault> {
    let invalid = || InvalidDefault::Variable(text.to_owned());
    let (name, value) = text.split_once('=').ok_or_else(invalid)?;
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(letter) {
        return Err(invalid());
    }
    if overrides::is_own_variable(name) {
        return Err(InvalidDefault::OwnVariable(name.to_owned()));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Reads JSON or YAML, in which no field may be unknown.
fn strict<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let mut unknown = Vec::new();
    let note = |path: serde_ignored::Path<'_>| unknown.push(path.to_string());
    let document = serde_yaml::Deserializer::from_str(text);
    let value = serde_ignored::deserialize(document, note).map_err(|error| error.to_string())?;
    match unknown.first() {
        Some(field) => Err(format!("{field} is not a field")),
        None => Ok(value),
    }
}

impl MonitoringDefaults {
    /// Checks rules that concern several fields.
    ///
    /// # Errors
    /// The scrape timeout is longer than the interval.
    pub fn checked(self) -> Result<Self, InvalidDefault> {
        if let (Some(timeout), Some(interval)) = (&self.scrape_timeout, &self.interval)
            && milliseconds(timeout) > milliseconds(interval)
        {
            return Err(InvalidDefault::TimeoutBeyondInterval {
                timeout: timeout.clone(),
                interval: interval.clone(),
            });
        }
        Ok(self)
    }

    /// Completes the monitoring of a PeerRelay with defaults for empty fields and missing labels.
    /// Default relabelings come before those of the PeerRelay.
    pub fn complete(&self, mut monitoring: Monitoring) -> Monitoring {
        for (key, value) in &self.labels {
            let labels = &mut monitoring.labels;
            labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
        // A timeout belongs to its interval. Values from two sources may not fit together.
        if monitoring.interval.is_none() && monitoring.scrape_timeout.is_none() {
            monitoring.interval.clone_from(&self.interval);
            monitoring.scrape_timeout.clone_from(&self.scrape_timeout);
        } else if monitoring.interval.is_none() {
            let fits = |interval: &&String| {
                let timeout = monitoring.scrape_timeout.as_deref().and_then(milliseconds);
                milliseconds(interval) >= timeout
            };
            monitoring.interval = self.interval.as_ref().filter(fits).cloned();
        } else if monitoring.scrape_timeout.is_none() {
            let fits = |timeout: &&String| {
                let interval = monitoring.interval.as_deref().and_then(milliseconds);
                milliseconds(timeout) <= interval
            };
            monitoring.scrape_timeout = self.scrape_timeout.as_ref().filter(fits).cloned();
        }
        let before = |of_operator: &[Relabeling], own: &mut Vec<Relabeling>| {
            own.splice(0..0, of_operator.iter().cloned());
        };
        before(&self.relabelings, &mut monitoring.relabelings);
        before(&self.metric_relabelings, &mut monitoring.metric_relabelings);
        monitoring
    }
}

/// Parses `KEY=VALUE`.
///
/// # Errors
/// It is not a label of Kubernetes.
pub fn label(text: &str) -> Result<(String, String), InvalidDefault> {
    let invalid = || InvalidDefault::Label(text.to_owned());
    let (key, value) = text.split_once('=').ok_or_else(invalid)?;
    if names::is_label(key, value) {
        Ok((key.to_owned(), value.to_owned()))
    } else {
        Err(invalid())
    }
}

/// Checks a duration, and returns it as it was written.
///
/// # Errors
/// Prometheus or the schema of PeerRelay would refuse it.
pub fn duration(text: &str) -> Result<String, InvalidDefault> {
    match milliseconds(text) {
        Some(1..) => Ok(text.to_owned()),
        _ => Err(InvalidDefault::Duration(text.to_owned())),
    }
}

/// Parses a list of relabeling rules, JSON or YAML.
///
/// # Errors
/// It is no such list, or a rule has an unknown field or action.
pub fn relabelings(text: &str) -> Result<Vec<Relabeling>, InvalidDefault> {
    let rules: Vec<Relabeling> = strict(text).map_err(InvalidDefault::Relabelings)?;
    let actions = rules.iter().filter_map(|rule| rule.action.as_deref());
    match actions.into_iter().find(|action| !ACTIONS.contains(action)) {
        Some(action) => {
            let said = format!("{action} is not an action");
            Err(InvalidDefault::Relabelings(said))
        }
        None => Ok(rules),
    }
}

/// Length of a duration; `None` if it is not one.
pub fn milliseconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut units = UNITS.iter();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: u32 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit());
        let (unit, left) = rest.split_at(end.unwrap_or(rest.len()));
        let (_, size) = units.find(|(name, _)| *name == unit)?;
        total += Duration::from_millis(*size).checked_mul(count)?;
        rest = left;
    }
    u64::try_from(total.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::json;

    use super::*;
    use crate::operator::{fixtures, referred_credential::Referred, validate::validate};

    fn filled(defaults: &MonitoringDefaults, own: serde_json::Value) -> Monitoring {
        defaults.complete(fixtures::relay(json!({"monitoring": own})).spec.monitoring)
    }

    #[test]
    fn a_peer_relay_wins_over_defaults_field_by_field() {
        let defaults = MonitoringDefaults {
            labels: [("release", "monitoring"), ("team", "net")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            interval: Some("30s".to_owned()),
            scrape_timeout: Some("10s".to_owned()),
            relabelings: relabelings("[{targetLabel: cluster, replacement: a}]").unwrap(),
            ..MonitoringDefaults::default()
        };
        let all = filled(&defaults, json!({}));
        assert_eq!(all.labels, defaults.labels);
        assert_eq!(all.interval.as_deref(), Some("30s"));
        assert_eq!(all.relabelings, defaults.relabelings);
        let own = json!({"labels": {"team": "vpn"}, "interval": "5s",
                         "relabelings": [{"targetLabel": "cluster", "replacement": "b"}]});
        let some = filled(&defaults, own);
        assert_eq!(some.labels["release"], "monitoring");
        assert_eq!(some.labels["team"], "vpn");
        let timing = (some.interval.as_deref(), some.scrape_timeout.as_deref());
        assert_eq!(timing, (Some("5s"), None), "10s would not fit into 5s");
        let written = some.relabelings.iter().map(|r| r.replacement.as_deref());
        assert_eq!(written.collect::<Vec<_>>(), [Some("a"), Some("b")]);
        let slow = filled(&defaults, json!({"scrapeTimeout": "45s"}));
        assert_eq!(slow.interval, None, "45s would not fit into 30s");
    }

    #[test]
    fn defaults_that_kubernetes_or_prometheus_would_refuse_are_refused() {
        assert_eq!(
            label("release=kube-prometheus-stack").unwrap().1,
            "kube-prometheus-stack"
        );
        assert!(label("example.com/team=").is_ok());
        for wrong in ["release", "=x", "a b=c", "a=b c", "/a=b", "a=-b", "A.b/c=d"] {
            assert!(label(wrong).is_err(), "{wrong}");
        }
        for right in ["30s", "1m30s", "500ms", "1h"] {
            assert!(duration(right).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "30",
            "s",
            "0s",
            "1s1m",
            "1d",
            "-1s",
            "1.5s",
            "99999999999s",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        for wrong in ["{}", "[{target: x}]", "[{action: explode}]", "[1]"] {
            assert!(relabelings(wrong).is_err(), "{wrong}");
        }
        for wrong in [
            "[]",
            "{prot: 1}",
            "{image: a}",
            "{podOverrides: {}}",
            "{labels: {a: b c}}",
            "{resources: {limit: {}}}",
        ] {
            assert!(template(wrong).is_err(), "{wrong}");
        }
        for wrong in [
            "HTTPS_PROXY",
            "=x",
            "A B=c",
            "NODE_NAME=x",
            "PEERRELAY_PORT=1",
        ] {
            assert!(variable(wrong).is_err(), "{wrong}");
        }
        assert!(variable("PEERRELAY_LOG=debug").is_ok());
        let late = MonitoringDefaults {
            interval: Some("10s".to_owned()),
            scrape_timeout: Some("1m".to_owned()),
            ..MonitoringDefaults::default()
        };
        assert!(late.checked().is_err());
    }

    #[test]
    fn a_template_of_a_peer_relay_wins_over_that_for_all_field_by_field() {
        let text = r#"{"labels": {"team": "net", "tier": "edge"}, "priorityClassName": "relays",
            "imagePullSecrets": ["pull"], "resources": {"limits": {"memory": "1Gi"}}}"#;
        let defaults = Defaults {
            template: TemplateDefaults {
                template: template(text).unwrap(),
                environment: [variable("HTTPS_PROXY=http://p:1").unwrap()].into(),
            },
            ..Defaults::default()
        };
        let pods = |spec| {
            let relay = fixtures::relay(spec);
            validate(&relay, &Referred::Unknown, &defaults)
                .unwrap()
                .pods
        };
        let plain = pods(json!({}));
        assert_eq!(plain.template, defaults.template.template);
        assert_eq!(plain.environment["HTTPS_PROXY"], "http://p:1");
        let own = json!({"labels": {"team": "vpn"}, "imagePullSecrets": ["own"], "priorityClassName": "p"});
        let own = pods(json!({"template": own})).template;
        assert_eq!(own.labels["team"], "vpn");
        assert_eq!(own.labels["tier"], "edge");
        assert_eq!(own.image_pull_secrets, ["own"]);
        assert_eq!(own.priority_class_name.as_deref(), Some("p"));
        assert_eq!(own.resources, plain.template.resources);
    }
}
