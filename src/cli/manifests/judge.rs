//! Checks of the PeerRelays and TailnetCredentials in files.

use std::{collections::HashMap, sync::Arc};

use serde::Serialize;
use serde_json::Value;

use super::yaml::{self, Node};
use crate::{
    crd::{
        GROUP, PeerRelay, TailnetCredential,
        admission::{Admission, Kind, Problem},
    },
    operator::{
        defaults::Defaults,
        referred_credential::Referred,
        validate::{InvalidRelay, ValidSpec, validate},
    },
};

/// Kind of an object whose kind is missing or wrong.
const KIND: &str = Kind::PeerRelay.as_str();
/// Version that is accepted.
const API_VERSION: &str = "peerrelay.dev/v1alpha1";
/// Namespace of an object that names none, as in kubectl.
const NAMESPACE: &str = "default";

/// PeerRelay or TailnetCredential, or an object that is probably meant as one, with its problems.
pub(in crate::cli) struct Judged {
    /// Name of the file.
    pub(in crate::cli) file: String,
    /// Line on which the object begins, or 0 if unknown.
    pub(in crate::cli) line: u64,
    /// Kind of the object. It is PeerRelay if the object has another one.
    pub(in crate::cli) kind: Kind,
    /// Namespace of the object, or `default`.
    pub(in crate::cli) namespace: String,
    /// Name of the object, or an empty string.
    pub(in crate::cli) name: String,
    /// True if the document is an object and not, for example, plain text.
    pub(in crate::cli) is_object: bool,
    /// Problems in the order of the file.
    pub(in crate::cli) findings: Vec<Finding>,
    /// Validated relay, if there is no problem.
    pub(in crate::cli) relay: Option<ValidSpec>,
}

/// Problem of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::cli) struct Finding {
    /// Path of the field. It is empty for the object as a whole.
    pub(in crate::cli) path: String,
    /// Description of the fix.
    pub(in crate::cli) message: String,
    /// Line in the file, or 0 if unknown.
    pub(in crate::cli) line: u64,
    /// Component that refuses the object.
    pub(in crate::cli) refused_by: RefusedBy,
}

/// Component that refuses an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(in crate::cli) enum RefusedBy {
    /// kubectl or the API server: the object is not created.
    Admission,
    /// The operator: the object is created, and its status is `InvalidSpec`.
    Operator,
}

impl Judged {
    /// Returns the kind, namespace and name for messages.
    pub(in crate::cli) fn shown(&self) -> String {
        let (kind, name) = (self.kind.as_str(), &self.name);
        match self.kind {
            _ if name.is_empty() => kind.to_owned(),
            Kind::PeerRelay => format!("{kind} {}/{name}", self.namespace),
            Kind::TailnetCredential => format!("{kind} {name}"),
        }
    }

    /// Returns the message of a finding in the format of compilers.
    pub(in crate::cli) fn line(&self, finding: &Finding) -> String {
        let place = match finding.line {
            0 => self.file.clone(),
            line => format!("{}:{line}", self.file),
        };
        let path = match finding.path.is_empty() {
            true => String::new(),
            false => format!("{}: ", finding.path),
        };
        let by = match finding.refused_by {
            RefusedBy::Admission => "",
            RefusedBy::Operator => {
                " (the API server accepts it, the operator does not: InvalidSpec)"
            }
        };
        let about = match self.is_object {
            true => format!("{}: ", self.shown()),
            false => String::new(),
        };
        format!("{place}: {about}{path}{}{by}", finding.message)
    }
}

/// Checks every PeerRelay and TailnetCredential of the files. The files are given as name and
/// content.
pub(super) fn judge(files: &[(String, Vec<u8>)]) -> Vec<Judged> {
    let mut judge = Judge {
        relays: Admission::of(Kind::PeerRelay),
        credentials: Admission::of(Kind::TailnetCredential),
        known: HashMap::new(),
        judged: Vec::new(),
    };
    let files: Vec<_> = files
        .iter()
        .map(|(file, bytes)| (file, yaml::documents(bytes)))
        .collect();
    for document in files.iter().flat_map(|(_, documents)| documents).flatten() {
        judge.learn(document);
    }
    for (file, documents) in &files {
        match documents {
            Ok(documents) => documents
                .iter()
                .for_each(|document| judge.document(file, document)),
            Err(error) => judge.refuse(file, None, Problem::new("", format!("not YAML: {error}"))),
        }
    }
    judge.repeated();
    judge.judged
}

struct Judge {
    relays: Admission,
    credentials: Admission,
    /// The valid TailnetCredentials of all files, by name.
    known: HashMap<String, Arc<TailnetCredential>>,
    judged: Vec<Judged>,
}

impl Judge {
    /// Records the TailnetCredentials of a document.
    fn learn(&mut self, node: &Node) {
        if let Some(items) = node.items() {
            items.iter().for_each(|item| self.learn(item));
        } else if kind_of(node) == Some(Kind::TailnetCredential)
            && let Ok(object) = self.credentials.admit(node.value())
            && let Ok(credential) = serde_json::from_value::<TailnetCredential>(object)
        {
            let name = credential.metadata.name.clone().unwrap_or_default();
            self.known.insert(name, Arc::new(credential));
        }
    }

    fn document(&mut self, file: &str, node: &Node) {
        let refuse = |judge: &mut Self, path: &str, message: String| {
            judge.refuse(file, Some(node), Problem::new(path, message));
        };
        if !node.is_object() {
            return refuse(
                self,
                "",
                "must be an object with apiVersion, kind and spec".into(),
            );
        }
        let (version, kind) = (node.text("apiVersion"), node.text("kind"));
        let (version, kind) = (version.unwrap_or(""), kind.unwrap_or(""));
        for (field, value) in [("apiVersion", version), ("kind", kind)] {
            if value.is_empty() {
                let message = format!("is required: {API_VERSION} and {KIND} for a PeerRelay");
                return refuse(self, field, message);
            }
        }
        if let Some(items) = node.items() {
            return items.iter().for_each(|item| self.document(file, item));
        }
        let is_ours = version == GROUP || version.starts_with(&format!("{GROUP}/"));
        let credential = Kind::TailnetCredential.as_str();
        match kind_of(node) {
            Some(Kind::PeerRelay) => self.peer_relay(file, node),
            Some(Kind::TailnetCredential) => self.tailnet_credential(file, node),
            None if kind == KIND || (is_ours && kind == credential) => {
                refuse(self, "apiVersion", format!("must be {API_VERSION}"));
            }
            None if kind.eq_ignore_ascii_case(KIND) || (is_ours && kind != "RelayNode") => {
                refuse(self, "kind", format!("must be {KIND} or {credential}"));
            }
            None if is_ours && version != API_VERSION => {
                refuse(self, "apiVersion", format!("must be {API_VERSION}"));
            }
            None => {}
        }
    }

    fn tailnet_credential(&mut self, file: &str, node: &Node) {
        let admitted = self.credentials.admit(node.value());
        let problems = admitted.err().unwrap_or_default();
        self.push(
            file,
            Some(node),
            by(RefusedBy::Admission, node, problems),
            None,
        );
    }

    fn peer_relay(&mut self, file: &str, node: &Node) {
        let (found, relay) = match self.relays.admit(node.value()) {
            Err(problems) => (by(RefusedBy::Admission, node, problems), None),
            Ok(object) => match operator(object, &self.known) {
                Err(problems) => (by(RefusedBy::Operator, node, problems), None),
                Ok(relay) => (Vec::new(), Some(*relay)),
            },
        };
        self.push(file, Some(node), found, relay);
    }

    fn refuse(&mut self, file: &str, node: Option<&Node>, problem: Problem) {
        let line = node.map_or(0, |node| node.line_of(&problem.path));
        let finding = Finding {
            path: problem.path,
            message: problem.message,
            line,
            refused_by: RefusedBy::Admission,
        };
        self.push(file, node, vec![finding], None);
    }

    fn push(
        &mut self,
        file: &str,
        node: Option<&Node>,
        findings: Vec<Finding>,
        relay: Option<ValidSpec>,
    ) {
        let metadata = node.and_then(|node| node.field("metadata"));
        let text = |name| metadata.and_then(|metadata| metadata.text(name));
        self.judged.push(Judged {
            file: file.to_owned(),
            line: node.map_or(0, |node| node.line),
            kind: node.and_then(named_kind).unwrap_or(Kind::PeerRelay),
            is_object: node.is_some_and(Node::is_object),
            namespace: text("namespace").unwrap_or(NAMESPACE).to_owned(),
            name: text("name")
                .or(text("generateName"))
                .unwrap_or("")
                .to_owned(),
            findings,
            relay,
        });
    }

    /// Adds a finding to objects with the name and namespace of an earlier one.
    fn repeated(&mut self) {
        for at in 0..self.judged.len() {
            let (earlier, rest) = self.judged.split_at_mut(at);
            let judged = &mut rest[0];
            let is_in_namespace = judged.kind == Kind::PeerRelay;
            let same = |other: &&mut Judged| {
                other.kind == judged.kind
                    && other.name == judged.name
                    && (other.namespace == judged.namespace || !is_in_namespace)
            };
            let is_valid = judged.findings.is_empty();
            if let Some(other) = earlier.iter_mut().find(same).filter(|_| is_valid) {
                judged.relay = None;
                judged.findings.push(Finding {
                    path: "metadata.name".into(),
                    message: format!(
                        "repeats the {} of {}: the later one would replace it",
                        judged.kind.as_str(),
                        other.file
                    ),
                    line: judged.line,
                    refused_by: RefusedBy::Admission,
                });
            }
        }
    }
}

/// The kind of an object with the version that is accepted.
fn kind_of(node: &Node) -> Option<Kind> {
    named_kind(node).filter(|_| node.text("apiVersion") == Some(API_VERSION))
}

/// The kind that an object names, in any version.
fn named_kind(node: &Node) -> Option<Kind> {
    let kind = node.text("kind")?;
    Kind::ALL.into_iter().find(|known| known.as_str() == kind)
}

/// Converts problems to findings, in the order of the file.
fn by(refused_by: RefusedBy, node: &Node, problems: Vec<Problem>) -> Vec<Finding> {
    let finding = |problem: Problem| Finding {
        line: node.line_of(&problem.path),
        path: problem.path,
        message: problem.message,
        refused_by,
    };
    let mut findings: Vec<_> = problems.into_iter().map(finding).collect();
    findings.sort_by_key(|finding| finding.line);
    findings
}

/// Validates an object as the operator does, after the API server has accepted it. A
/// TailnetCredential that no file has may be in the cluster.
fn operator(
    object: Value,
    credentials: &HashMap<String, Arc<TailnetCredential>>,
) -> Result<Box<ValidSpec>, Vec<Problem>> {
    let mut relay: PeerRelay = serde_json::from_value(object).map_err(|error| {
        vec![Problem::new(
            "",
            format!("the operator cannot read it: {error}"),
        )]
    })?;
    let metadata = &mut relay.metadata;
    metadata.namespace.get_or_insert_with(|| NAMESPACE.into());
    metadata.uid.get_or_insert_default();
    let reference = relay.spec.tailnet.credentials_ref.as_ref();
    let referred = match reference.and_then(|reference| credentials.get(&reference.name)) {
        Some(credential) => Referred::Found(credential.clone()),
        None => Referred::Unknown,
    };
    // No command without a cluster shows an operator's defaults.
    validate(&relay, &referred, &Defaults::default())
        .map(Box::new)
        .map_err(|_| each_invalid(&relay, &referred))
}

/// Returns all problems that the operator finds. It stops at the first one, so each part of the
/// spec is validated separately.
fn each_invalid(relay: &PeerRelay, referred: &Referred) -> Vec<Problem> {
    let mut problems: Vec<Problem> = Vec::new();
    let mut check = |part: &PeerRelay, referred: &Referred, region: &str, client: &str| {
        if let Err(invalid) = validate(part, referred, &Defaults::default()) {
            let problem = problem(&invalid, region, client);
            if !problems
                .iter()
                .any(|known| known.message == problem.message)
            {
                problems.push(problem);
            }
        }
    };
    let mut part = relay.clone();
    part.spec.regions.clear();
    check(&part, referred, "spec", "");
    part.spec.tailnet.control_url = None;
    part.spec.template = None;
    for (at, region) in relay.spec.regions.iter().enumerate() {
        part.spec.regions = vec![region.clone()];
        for (nth, client) in region.clients.iter().enumerate() {
            part.spec.regions[0].clients = vec![client.clone()];
            let place = format!("spec.regions[{at}]");
            let client = format!("{place}.clients[{nth}]");
            check(&part, &Referred::Unknown, &place, &client);
        }
    }
    // Some problems concern several parts together.
    check(relay, referred, "spec", "spec");
    problems
}

fn problem(invalid: &InvalidRelay, region: &str, client: &str) -> Problem {
    let path = match invalid {
        InvalidRelay::ControlUrl(_) => "spec.tailnet.controlURL".to_owned(),
        InvalidRelay::Reference(_) => "spec.tailnet.credentialsRef".to_owned(),
        InvalidRelay::Overrides(_) => "spec.template.podOverrides".to_owned(),
        InvalidRelay::Client { .. } | InvalidRelay::OwnTag(_) => client.to_owned(),
        InvalidRelay::EveryoneRelays(_) => format!("{region}.tag"),
        InvalidRelay::NodeLabel { .. } => format!("{region}.placement.nodeSelector"),
        InvalidRelay::Endpoints { .. } => format!("{region}.endpoints"),
        _ => region.to_owned(),
    };
    Problem::new(path, invalid.to_string())
}

#[cfg(test)]
mod tests;
