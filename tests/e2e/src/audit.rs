//! Requests of operator and relays to the API server in the whole run, beside the rights that they have.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use rig::{audit::WRITES, deployment::Deployment, names::OPERATOR_NAMESPACE};
use serde_json::Value;
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

/// Requests of these programs are tests that something is refused.
const NEGATIVE_TESTS: [&str; 2] = ["curl/", "kubectl/"];
/// Rights that no request shows, with the component that checks them.
const NO_REQUEST: [(&str, &str); 3] = [
    // The admission plugin OwnerReferencesPermissionEnforcement, which the rig has: for owners of
    // children, and when the lease gets another owner.
    ("peerrelay.dev/peerrelays/finalizers", "update"),
    ("coordination.k8s.io/leases", "delete"),
    // The chart's admission policy.
    ("peerrelay.dev/relaynodes", "verify"),
];

/// Groups of which objects are created to ask something.
const QUESTIONS: [&str; 2] = ["authentication.k8s.io", "authorization.k8s.io"];
/// Prefix of the user names of ServiceAccounts; namespace and name follow.
const ACCOUNT: &str = "system:serviceaccount:";
/// Longest time for which a pod runs without its rights: its grace period, twice.
const LINGER: Duration = Duration::seconds(60);
/// Time in which the API server's authorizer knows of a right that was given.
const SPREAD: Duration = Duration::seconds(2);

/// A right: group and resource, and the verb.
type Right = (String, String);

/// Fails if a request of ours was refused. Pods of a PeerRelay or an operator that is being removed outlive
/// their rights, and so do PeerRelays in a namespace that is being deleted. Refusals after the removal do not count.
pub(crate) fn check(deployment: &Deployment<'_>) -> Result<String> {
    let requests = Requests::read(&log(deployment)?)?;
    let refused = requests.refused_with_rights();
    ensure!(refused.is_empty(), "refused: {}", refused.join("; "));
    let excused = requests.refused.len();
    Ok(format!(
        "{} requests, {excused} of them by those whose rights had been removed",
        requests.requests
    ))
}

/// Fails if something is allowed that no request has needed, also none in the audit logs of other rigs.
/// Means something for a whole run only.
pub(crate) fn check_needed(deployment: &Deployment<'_>, others: &[PathBuf]) -> Result<String> {
    let mut used = Requests::read(&log(deployment)?)?.used;
    for file in others {
        used.extend(Requests::read(&read_log(file)?)?.used);
    }
    let granted = granted(deployment)?;
    ensure!(!granted.is_empty(), "no rights were found");
    let unused = unused(&granted, &used);
    ensure!(unused.is_empty(), "never used: {}", unused.join(", "));
    Ok(format!("{} rights", granted.len()))
}

/// Writes of operators that began at a moment or later, as verb, kind and name. Their lease, and questions
/// that are asked by creating something, are none.
pub(crate) fn operators_writes(
    deployment: &Deployment<'_>,
    since: OffsetDateTime,
) -> Result<Vec<String>> {
    let of_operators = format!("{ACCOUNT}{OPERATOR_NAMESPACE}:");
    let mut writes = Vec::new();
    for line in log(deployment)?.lines() {
        // The last line may not be whole.
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let (about, verb) = (&event["objectRef"], text(&event["verb"]));
        let group = text(&about["apiGroup"]);
        let asks = QUESTIONS.contains(&&*group) || about["resource"] == "leases";
        if text(&event["user"]["username"]).starts_with(&of_operators)
            && WRITES.contains(&&*verb)
            && !asks
            && time(&event["requestReceivedTimestamp"])? >= since
        {
            let (kind, name) = (text(&about["resource"]), text(&about["name"]));
            let sub = text(&about["subresource"]);
            writes.push(format!("{verb} {kind}/{name} {sub}").trim_end().to_owned());
        }
    }
    Ok(writes)
}

fn log(deployment: &Deployment<'_>) -> Result<String> {
    read_log(&deployment.rig.audit_log())
}

fn read_log(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))
}

fn unused(granted: &BTreeSet<Right>, used: &BTreeSet<Right>) -> Vec<String> {
    // A streamed list is a watch. Where the API server has none, it is asked for pages.
    let streamed = |(what, verb): &Right| {
        let watch = (what.clone(), "watch".to_owned());
        verb == "list" && used.contains(&watch)
    };
    granted
        .difference(used)
        .filter(|right| !streamed(right))
        .filter(|(what, verb)| !NO_REQUEST.contains(&(&**what, &**verb)))
        .map(|(what, verb)| format!("{verb} {what}"))
        .collect()
}

/// A request that was refused.
#[derive(Debug)]
struct Refusal {
    /// Name of the ServiceAccount, without its namespace.
    account: String,
    /// Namespace of the object; empty if it has none.
    namespace: String,
    began: OffsetDateTime,
    ended: OffsetDateTime,
    text: String,
}

/// A moment at which a role, a binding or a ServiceAccount was made or removed.
#[derive(Clone, Copy, Debug)]
struct Change {
    removed: bool,
    began: OffsetDateTime,
    ended: OffsetDateTime,
}

/// Requests in the audit log.
#[derive(Debug, Default)]
struct Requests {
    requests: usize,
    /// Rights by which a request has succeeded, or has learned that an object does not exist.
    used: BTreeSet<Right>,
    refused: Vec<Refusal>,
    /// Changes of rights, by kind and name of the object. All objects of a namespace have [`all_in`] as their
    /// name.
    rights: BTreeMap<(String, String), Vec<Change>>,
}

impl Requests {
    fn read(log: &str) -> Result<Self> {
        let mut requests = Self::default();
        for event in log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        {
            requests.record(&event)?;
        }
        Ok(requests)
    }

    fn record(&mut self, event: &Value) -> Result<()> {
        let agent = text(&event["userAgent"]);
        let about = &event["objectRef"];
        if !about.is_object() {
            return Ok(());
        }
        let code = event["responseStatus"]["code"].as_u64().unwrap_or_default();
        let verb = text(&event["verb"]);
        let succeeded = (200..300).contains(&code);
        if succeeded && is_about_rights(about) {
            self.change(event, &verb, code)?;
        }
        let user = text(&event["user"]["username"]);
        let account = user.strip_prefix(ACCOUNT).unwrap_or_default();
        let (namespace, account) = account.split_once(':').unwrap_or_default();
        let is_negative_test = NEGATIVE_TESTS
            .iter()
            .any(|program| agent.starts_with(program));
        if account.is_empty() || namespace == "kube-system" || is_negative_test {
            return Ok(());
        }
        self.requests += 1;
        let mut what = format!("{}/{}", text(&about["apiGroup"]), text(&about["resource"]));
        if let Some(sub) = about["subresource"].as_str() {
            what += &format!("/{sub}");
        }
        if is_refusal(event, &what, code) {
            let said = text(&event["responseStatus"]["message"]);
            self.refused.push(Refusal {
                account: account.to_owned(),
                namespace: text(&about["namespace"]),
                began: time(&event["requestReceivedTimestamp"])?,
                ended: time(&event["stageTimestamp"])?,
                text: format!("{user}: {verb} {what}: {said}"),
            });
        } else if succeeded || verb == "get" && code == 404 {
            // Applying what is not there takes the right to create, too.
            if verb == "patch" && code == 201 {
                self.used.insert((what.clone(), "create".into()));
            }
            self.used.insert((what, verb));
        }
        Ok(())
    }

    /// Records that a role, a binding or a ServiceAccount was made or removed.
    fn change(&mut self, event: &Value, verb: &str, code: u64) -> Result<()> {
        let removed = verb.starts_with("delete");
        if !removed && code != 201 {
            return Ok(());
        }
        let about = &event["objectRef"];
        let name = match verb {
            "deletecollection" => all_in(&text(&about["namespace"])),
            _ => text(&about["name"]),
        };
        let key = (text(&about["resource"]), name);
        let change = Change {
            removed,
            began: time(&event["requestReceivedTimestamp"])?,
            ended: time(&event["stageTimestamp"])?,
        };
        self.rights.entry(key).or_default().push(change);
        Ok(())
    }

    /// Requests that were refused although the rights of their account had not just been removed.
    fn refused_with_rights(&self) -> Vec<&str> {
        let counts = |refusal: &&Refusal| {
            let names = [refusal.account.clone(), all_in(&refusal.namespace)];
            let rights = self.rights.iter();
            let mut of_account = rights.filter(|((_, name), _)| names.contains(name));
            !of_account.any(|(_, changes)| {
                let last = changes
                    .iter()
                    .rev()
                    .find(|change| change.is_before(refusal));
                last.is_some_and(|change| change.removed && refusal.began - change.ended < LINGER)
            })
        };
        let refused = self.refused.iter().filter(counts);
        refused.map(|refusal| refusal.text.as_str()).collect()
    }
}

impl Change {
    /// Says if the change came before a refusal: the authorizer may know of a removal at once, and knows of
    /// what was given after a moment.
    fn is_before(&self, refusal: &Refusal) -> bool {
        if self.removed {
            self.began <= refusal.ended
        } else {
            self.ended + SPREAD <= refusal.began
        }
    }
}

/// The name that stands for all objects of a namespace, which no object has.
fn all_in(namespace: &str) -> String {
    format!("{namespace}/")
}

/// Says if an object gives rights to a ServiceAccount, or is one.
fn is_about_rights(about: &Value) -> bool {
    about["subresource"].is_null()
        && (about["apiGroup"] == "rbac.authorization.k8s.io"
            || about["resource"] == "serviceaccounts")
}

/// Says if the API server refused a request for want of a right. A refusal by a foreign admission policy or quota
/// refuses is allowed; what ours refuses is not. A namespace that is being deleted takes nothing new,
/// whoever asks.
fn is_refusal(event: &Value, what: &str, code: u64) -> bool {
    let said = text(&event["responseStatus"]["message"]);
    let forbidden = event["annotations"]["authorization.k8s.io/decision"] == "forbid"
        || what.starts_with("peerrelay.dev/") && !said.contains("being terminated");
    code == 401 || code == 403 && forbidden
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn time(value: &Value) -> Result<OffsetDateTime> {
    let text = value.as_str().context("an event has no time")?;
    OffsetDateTime::parse(text, &Rfc3339).with_context(|| format!("'{text}' is no time"))
}

/// Rights of the operator and of the relays; the operator gives nothing that it does not have.
fn granted(deployment: &Deployment<'_>) -> Result<BTreeSet<Right>> {
    let read = |words: &[&str]| -> Result<Vec<Value>> {
        let list: Value = serde_json::from_str(&deployment.rig.kubectl(words)?)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    };
    let bindings = read(&[
        "get",
        "clusterrolebindings,rolebindings",
        "-A",
        "-o",
        "json",
    ])?;
    let roles = read(&["get", "clusterroles,roles", "-A", "-o", "json"])?;
    let key = |kind: &Value, namespace: &Value, name: &Value| {
        let namespace = if kind == "Role" {
            namespace
        } else {
            &Value::Null
        };
        format!("{kind} {namespace} {name}")
    };
    let rules: BTreeMap<String, &Value> = roles
        .iter()
        .map(|role| {
            let metadata = &role["metadata"];
            (
                key(&role["kind"], &metadata["namespace"], &metadata["name"]),
                &role["rules"],
            )
        })
        .collect();
    let mut rights = BTreeSet::new();
    for binding in bindings {
        let subjects = binding["subjects"].as_array();
        let labels = &binding["metadata"]["labels"];
        let of_operator = subjects.into_iter().flatten().any(|subject| {
            subject["kind"] == "ServiceAccount" && subject["namespace"] == OPERATOR_NAMESPACE
        });
        let of_relay = labels["app.kubernetes.io/managed-by"] == "peerrelay-operator";
        if !of_operator && !of_relay {
            continue;
        }
        let to = &binding["roleRef"];
        let role = key(&to["kind"], &binding["metadata"]["namespace"], &to["name"]);
        let rules = rules
            .get(&role)
            .with_context(|| format!("{role} is not there"))?;
        rights.extend(rules.as_array().into_iter().flatten().flat_map(rights_of));
    }
    Ok(rights)
}

fn rights_of(rule: &Value) -> Vec<Right> {
    let texts = |field: &str| -> Vec<String> {
        let list = rule[field].as_array().into_iter().flatten();
        list.filter_map(|item| item.as_str().map(str::to_owned))
            .collect()
    };
    let mut rights = Vec::new();
    for group in texts("apiGroups") {
        for resource in texts("resources") {
            for verb in texts("verbs") {
                rights.push((format!("{group}/{resource}"), verb));
            }
        }
    }
    rights
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RELAY: &str = "system:serviceaccount:relays:edge-office";
    const COLLECTOR: &str = "system:serviceaccount:kube-system:generic-garbage-collector";

    fn event(user: &str, verb: &str, what: &str, code: u16, second: u8) -> String {
        let (group, resource) = what.split_once('/').unwrap_or_default();
        let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
        let decision = if code == 403 { "forbid" } else { "allow" };
        let mut about = json!({"apiGroup": group, "resource": resource, "name": "edge-office"});
        if !sub.is_empty() {
            about["subresource"] = sub.into();
        }
        json!({
            "annotations": {"authorization.k8s.io/decision": decision},
            "verb": verb, "userAgent": "ours", "user": {"username": user},
            "requestReceivedTimestamp": format!("2026-11-29T02:00:{second:02}.000000Z"),
            "stageTimestamp": format!("2026-11-29T02:00:{second:02}.500000Z"),
            "objectRef": about,
            "responseStatus": {"code": code, "message": "no"},
        })
        .to_string()
    }

    fn read(log: &[String]) -> Requests {
        Requests::read(&log.join("\n")).expect("the log is whole")
    }

    #[test]
    fn a_right_is_used_by_requests_that_succeed_or_find_nothing() {
        let sets = "apps/daemonsets/status";
        let requests = read(&[
            event(RELAY, "patch", sets, 201, 0),
            event(RELAY, "get", sets, 404, 0),
            event(RELAY, "delete", sets, 404, 0),
            event(RELAY, "update", sets, 409, 0),
            event(RELAY, "watch", sets, 200, 0),
            event(COLLECTOR, "delete", sets, 200, 0),
            event(RELAY, "get", sets, 403, 0).replace("ours", "curl/8"),
            json!({"verb": "get", "requestURI": "/version"}).to_string(),
        ]);
        let right = |verb: &str| (sets.to_owned(), verb.to_owned());
        assert_eq!(
            requests.used,
            BTreeSet::from([
                right("create"),
                right("get"),
                right("patch"),
                right("watch")
            ])
        );
        assert_eq!(requests.requests, 5);
        assert!(requests.refused.is_empty());
    }

    #[test]
    fn a_refusal_counts_unless_the_rights_were_removed_before() {
        let report = "peerrelay.dev/relaynodes/status";
        let binding = "rbac.authorization.k8s.io/rolebindings";
        let refused = |log: &[String]| read(log).refused_with_rights().len();
        let made = event("admin", "patch", binding, 201, 1);
        let removed = event(COLLECTOR, "delete", binding, 200, 20);
        let again = event("admin", "patch", binding, 201, 40);
        let at = |second| event(RELAY, "patch", report, 403, second);
        let all = [made, event(RELAY, "patch", report, 200, 5), removed, again];
        for (second, counts) in [(10, 1), (20, 0), (30, 0), (41, 0), (50, 1)] {
            let log = [all.as_slice(), &[at(second)]].concat();
            assert_eq!(refused(&log), counts, "{second}");
        }
        assert_eq!(refused(&[at(10)]), 1);
    }

    #[test]
    fn a_refusal_in_a_namespace_that_is_being_deleted_does_not_count() {
        let roles = "rbac.authorization.k8s.io/roles";
        let within = |event: String, namespace: &str| {
            let name = "\"name\":\"edge-office\"";
            assert!(event.contains(name), "{event}");
            event.replace(name, &format!("\"namespace\":\"{namespace}\",{name}"))
        };
        let operator = RELAY.replace("edge-office", "operator");
        let refused = |namespace: &str, second| {
            let removed = event(COLLECTOR, "deletecollection", roles, 200, 20);
            let asked = event(&operator, "get", "/secrets", 403, second);
            let log = [within(removed, "leaving"), within(asked, namespace)];
            read(&log).refused_with_rights().len()
        };
        for (namespace, second, counts) in
            [("leaving", 10, 1), ("leaving", 21, 0), ("relays", 21, 1)]
        {
            assert_eq!(refused(namespace, second), counts, "{namespace} {second}");
        }
    }

    #[test]
    fn rights_that_no_request_used_are_listed_unless_they_need_none() {
        let right = |what: &str, verb: &str| (what.to_owned(), verb.to_owned());
        let granted = BTreeSet::from([
            right("/services", "get"),
            right("/services", "delete"),
            right("/services", "list"),
            right("/nodes", "list"),
            right("peerrelay.dev/peerrelays/finalizers", "update"),
        ]);
        let used = BTreeSet::from([
            right("/services", "get"),
            right("/pods", "list"),
            right("/nodes", "watch"),
        ]);
        assert_eq!(
            unused(&granted, &used),
            ["delete /services", "list /services"]
        );
    }

    #[test]
    fn a_rule_gives_every_verb_on_every_resource() {
        let rule = json!({"apiGroups": ["", "apps"], "resources": ["a"], "verbs": ["get", "list"]});
        let rights = rights_of(&rule);
        assert_eq!(rights.len(), 4);
        assert!(rights.contains(&("/a".into(), "get".into())));
    }
}
