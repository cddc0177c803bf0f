//! The requests of our parts to the API server in the whole run, compared with their rights.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result, ensure};
use rig::deployment::{Deployment, OPERATOR_NAMESPACE};
use serde_json::Value;

/// Requests of these programs are tests that something is refused.
const NEGATIVE_TESTS: [&str; 2] = ["curl/", "kubectl/"];
/// Rights that no request shows, and who looks at them.
const NO_REQUEST: [(&str, &str); 3] = [
    // The admission plugin OwnerReferencesPermissionEnforcement, which the rig has: for owners of
    // children, and when the lease gets another owner.
    ("peerrelay.dev/peerrelays/finalizers", "update"),
    ("coordination.k8s.io/leases", "delete"),
    // The chart's admission policy.
    ("peerrelay.dev/relaynodes", "verify"),
];

/// A right: group and resource, and the verb.
type Right = (String, String);

/// Fails if a request of ours was refused.
pub(crate) fn check(deployment: &Deployment<'_>) -> Result<String> {
    let asked = Asked::read(&log(deployment)?);
    let accounts = accounts(deployment)?;
    // An operator that is being uninstalled loses its rights before its pods have ended.
    let there = asked
        .refused
        .values()
        .filter(|refusal| accounts.contains(&refusal.account));
    let refused: Vec<_> = there.map(|refusal| refusal.text.as_str()).collect();
    ensure!(refused.is_empty(), "refused: {}", refused.join("; "));
    Ok(format!("{} requests", asked.requests))
}

/// Fails if something is allowed that no request has needed. Means something for a whole run only.
pub(crate) fn check_needed(deployment: &Deployment<'_>) -> Result<String> {
    let asked = Asked::read(&log(deployment)?);
    let granted = granted(deployment)?;
    ensure!(!granted.is_empty(), "no rights were found");
    let unused = unused(&granted, &asked.used);
    ensure!(unused.is_empty(), "never used: {}", unused.join(", "));
    Ok(format!("{} rights", granted.len()))
}

/// Identities of the ServiceAccounts that exist.
fn accounts(deployment: &Deployment<'_>) -> Result<BTreeSet<String>> {
    let words = ["get", "serviceaccounts", "-A", "-o", "json"];
    let list: Value = serde_json::from_str(&deployment.rig.kubectl(words)?)?;
    let items = list["items"].as_array().into_iter().flatten();
    let uids = items.filter_map(|account| account["metadata"]["uid"].as_str());
    Ok(uids.map(str::to_owned).collect())
}

fn log(deployment: &Deployment<'_>) -> Result<String> {
    fs::read_to_string(deployment.rig.audit_log()).context("there is no audit log")
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
    /// Identity of the ServiceAccount.
    account: String,
    text: String,
}

/// A summary of the audit log.
#[derive(Debug, Default)]
struct Asked {
    requests: usize,
    used: BTreeSet<Right>,
    /// Last words, by who asked and for what object.
    refused: BTreeMap<(String, String), Refusal>,
    /// The accounts that have written, each with the name of the object.
    wrote: BTreeSet<(String, String)>,
}

impl Asked {
    fn read(log: &str) -> Self {
        let mut asked = Self::default();
        for event in log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        {
            asked.note(&event);
        }
        asked
    }

    fn note(&mut self, event: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let agent = text(&event["userAgent"]);
        let about = &event["objectRef"];
        if !about.is_object()
            || NEGATIVE_TESTS
                .iter()
                .any(|program| agent.starts_with(program))
        {
            return;
        }
        self.requests += 1;
        let mut what = format!("{}/{}", text(&about["apiGroup"]), text(&about["resource"]));
        if let Some(sub) = about["subresource"].as_str() {
            what += &format!("/{sub}");
        }
        let verb = text(&event["verb"]);
        let code = event["responseStatus"]["code"].as_u64().unwrap_or_default();
        let said = text(&event["responseStatus"]["message"]);
        // What somebody's admission policy or quota refuses is allowed; what ours refuses is not.
        // A namespace that is being deleted takes nothing new, whoever asks.
        let forbidden = event["annotations"]["authorization.k8s.io/decision"] == "forbid"
            || what.starts_with("peerrelay.dev/") && !said.contains("being terminated");
        let user = text(&event["user"]["username"]);
        let key = (user.clone(), text(&about["name"]));
        if code == 401 || code == 403 && forbidden {
            // A relay that is on its way out outlives its Role: it has written its report before,
            // and never does again.
            if !(what.starts_with("peerrelay.dev/relaynodes") && self.wrote.contains(&key)) {
                let refusal = Refusal {
                    account: text(&event["user"]["uid"]),
                    text: format!("{user}: {verb} {what}: {said}"),
                };
                self.refused.insert(key, refusal);
            }
            return;
        }
        self.wrote.insert(key);
        // Applying what is not there takes the right to create, too.
        if verb == "patch" && code == 201 {
            self.used.insert((what.clone(), "create".into()));
        }
        self.used.insert((what, verb));
    }
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

    #[test]
    fn what_was_used_and_what_was_refused_is_told_apart() {
        let event = |verb: &str, agent: &str, code: u16| {
            let decision = if verb == "delete" { "forbid" } else { "allow" };
            json!({
                "annotations": {"authorization.k8s.io/decision": decision},
                "verb": verb, "userAgent": agent, "user": {"username": "relay", "uid": "uid"},
                "objectRef": {"apiGroup": "apps", "resource": "daemonsets", "subresource": "status"},
                "responseStatus": {"code": code, "message": "no"},
            })
            .to_string()
        };
        let log = [
            event("patch", "ours", 201),
            event("get", "curl/8", 403),
            event("delete", "ours", 403),
            event("update", "ours", 403),
            json!({"verb": "get", "requestURI": "/version"}).to_string(),
        ];
        let asked = Asked::read(&log.join("\n"));
        let right = |verb: &str| ("apps/daemonsets/status".to_owned(), verb.to_owned());
        assert_eq!(
            asked.used,
            BTreeSet::from([right("create"), right("patch"), right("update")])
        );
        assert_eq!(asked.requests, 3);
        assert_eq!(
            asked
                .refused
                .values()
                .map(|r| (&*r.account, &*r.text))
                .collect::<Vec<_>>(),
            [("uid", "relay: delete apps/daemonsets/status: no")]
        );
    }

    #[test]
    fn what_is_allowed_and_never_asked_is_told_except_what_makes_no_request() {
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
