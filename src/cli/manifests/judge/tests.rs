#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use super::*;

const SMALLEST: &str = "
apiVersion: peerrelay.dev/v1alpha1
kind: PeerRelay
metadata: {name: edge}
spec:
  tailnet: {authKey: {secretName: tailnet-auth}}
  regions: [{name: office, clients: ['tag:office']}]
";

#[test]
fn defaults_are_filled_in_and_other_kinds_passed_over() {
    let indented = SMALLEST.trim().replace('\n', "\n  ");
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n- {indented}"
    );
    let other = format!("apiVersion: v1\nkind: Namespace\n---{SMALLEST}---\n");
    for text in [other, list] {
        let judged = from(&text);
        assert_eq!((judged.len(), lines(&judged)), (1, vec![]));
        let relay = judged[0].relay.as_ref().unwrap();
        assert_eq!((relay.port, &*relay.owner.namespace), (40_000, "default"));
        assert_eq!(relay.regions[0].tag, "tag:relay-office");
    }
}

#[test]
fn entries_of_a_typed_list_need_no_kind() {
    let item = SMALLEST
        .trim()
        .lines()
        .skip(2)
        .collect::<Vec<_>>()
        .join("\n  ");
    let text = format!("apiVersion: {API_VERSION}\nkind: PeerRelayList\nitems:\n- {item}\n");
    let judged = from(&text);
    assert_eq!((judged.len(), lines(&judged)), (1, vec![]));
}

/// Replacements of a part of [`SMALLEST`], and the text of the finding that each causes.
const FAULTS: [(&str, &str, &str); 15] = [
    (
        "secretName",
        "secretname",
        "a.yaml:6: PeerRelay default/edge: spec.tailnet.authKey.secretname: unknown field: write secretName",
    ),
    (
        "spec:",
        "spec:\n  prot: 1",
        "a.yaml:6: PeerRelay default/edge: spec.prot: unknown field: correct or remove it",
    ),
    (
        "spec:",
        "spec:\n  port: 0",
        "a.yaml:6: PeerRelay default/edge: spec.port: must be 1 to 65535, not 0",
    ),
    (
        "spec:",
        "spec:\n  port: '40000'",
        "spec.port: must be a whole number from 1 to 65535, not a string",
    ),
    (
        "spec:",
        "spec:\n  port: 9440\n  monitoring: {port: 9440}",
        "spec: monitoring.port must differ from port",
    ),
    (
        "tag:office",
        "tag:office:22",
        "spec.regions[0].clients[0]: clients of region office: 'tag:office:22' names no clients: clients have no port",
    ),
    (
        "clients:",
        "tag: '*', clients:",
        "every device of the tailnet would become a relay",
    ),
    (
        "clients:",
        "tag: relay-x, clients:",
        "spec.regions[0].tag: must match ^tag:",
    ),
    (
        "clients: ['tag:office']",
        "clients: []",
        "spec.regions[0].clients: must not be empty",
    ),
    (
        "kind: PeerRelay",
        "kind: Peerrelay",
        "kind: must be PeerRelay or TailnetCredential",
    ),
    (
        "v1alpha1",
        "v1",
        "apiVersion: must be peerrelay.dev/v1alpha1",
    ),
    (
        "metadata: {name: edge}",
        "metadata: {}",
        "PeerRelay: metadata.name: is required",
    ),
    (
        "name: edge",
        "name: edge, labels: {a: 1}",
        "metadata.labels.a: ",
    ),
    ("tag:office", "tag:relay-office", "set selfRelay instead"),
    (
        "regions: [",
        "regions: [{name: office, clients: [a]}, ",
        "spec.regions[1].name: repeats an earlier entry",
    ),
];

#[test]
fn each_fault_is_named_once_with_line_path_and_remedy() {
    for (from_text, to, says) in FAULTS {
        let judged = from(&SMALLEST.replace(from_text, to));
        let said: Vec<_> = lines(&judged);
        let about: Vec<_> = said.iter().filter(|line| line.contains(says)).collect();
        assert_eq!(about.len(), 1, "{says}: {said:#?}");
        let expected = if from_text == "secretName" { 2 } else { 1 };
        assert_eq!(said.len(), expected, "{says}: {said:#?}");
    }
}

#[test]
fn everything_that_the_operator_refuses_is_found_at_once() {
    let text = SMALLEST.replace(
        "regions: [{name: office, clients: ['tag:office']}]",
        "regions:\n  - {name: a, clients: ['tag:a:1', 'tag:b:2', 'tag:c']}\n  - {name: b, clients: ['tag:relay-b']}",
    );
    let judged = from(&text);
    let paths: Vec<_> = judged[0]
        .findings
        .iter()
        .map(|f| (&*f.path, f.line))
        .collect();
    assert_eq!(
        paths,
        [
            ("spec.regions[0].clients[0]", 8),
            ("spec.regions[0].clients[1]", 8),
            ("spec.regions[1].clients[0]", 9),
        ]
    );
    let by_operator = |f: &Finding| f.refused_by == RefusedBy::Operator;
    assert!(judged[0].findings.iter().all(by_operator));
}

const CREDENTIAL: &str = "
apiVersion: peerrelay.dev/v1alpha1
kind: TailnetCredential
metadata: {name: acme}
spec: {oauth: {secretName: tailnet-oauth}, allowedNamespaces: [default]}
";

#[test]
fn a_tailnet_credential_applies_to_the_relays_that_refer_to_it_in_any_order() {
    let refers = SMALLEST.replace(
        "authKey: {secretName: tailnet-auth}",
        "credentialsRef: {name: acme}",
    );
    let judged = from(&format!("{refers}---{CREDENTIAL}"));
    assert_eq!(lines(&judged), Vec::<String>::new());
    assert_eq!(judged[1].shown(), "TailnetCredential acme");
    assert!(judged[0].relay.is_some() && judged[1].relay.is_none());

    let other = CREDENTIAL.replace("[default]", "[relays]");
    for text in [format!("{refers}---{other}"), format!("{other}---{refers}")] {
        let said = lines(&from(&text));
        assert_eq!(said.len(), 1, "{said:?}");
        let place = "PeerRelay default/edge: spec.tailnet.credentialsRef: TailnetCredential acme";
        assert!(said[0].contains(place), "{said:?}");
        assert!(said[0].contains("allowedNamespaces"), "{said:?}");
    }
    assert_eq!(
        lines(&from(&refers)),
        Vec::<String>::new(),
        "it may be in the cluster"
    );
}

#[test]
fn a_tailnet_credential_is_checked_and_cannot_be_given_twice() {
    let said = lines(&from(&CREDENTIAL.replace("[default]", "[default, '*']")));
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].contains("TailnetCredential acme: spec: allowedNamespaces has '*'"),
        "{said:?}"
    );
    let said = lines(&from(&CREDENTIAL.replace("v1alpha1", "v1")));
    assert!(
        said[0].contains("TailnetCredential acme: apiVersion: must be peerrelay.dev/v1alpha1"),
        "{said:?}"
    );
    let said = lines(&from(&format!("{CREDENTIAL}---{CREDENTIAL}")));
    assert!(
        said[0].contains("repeats the TailnetCredential of a.yaml"),
        "{said:?}"
    );
}

#[test]
fn one_name_cannot_be_given_twice() {
    let judged = from(&format!("{SMALLEST}---{SMALLEST}"));
    assert!(lines(&judged)[0].contains("repeats the PeerRelay of a.yaml"));
    assert_eq!(
        judged
            .iter()
            .filter(|judged| judged.relay.is_some())
            .count(),
        1
    );
}

#[test]
fn what_is_no_object_is_refused() {
    for text in [
        "- a\n",
        "text\n",
        "a: [\n",
        "kind: PeerRelay\n",
        "apiVersion: v1\n",
    ] {
        let judged = from(text);
        assert_eq!((judged.len(), lines(&judged).len()), (1, 1), "{text}");
    }
    assert!(from("# nothing\n").is_empty());
}

fn from(text: &str) -> Vec<Judged> {
    judge(&[("a.yaml".to_owned(), text.as_bytes().to_vec())])
}

fn lines(judged: &[Judged]) -> Vec<String> {
    let lines = |judged: &Judged| {
        judged
            .findings
            .iter()
            .map(|f| judged.line(f))
            .collect::<Vec<_>>()
    };
    judged.iter().flat_map(lines).collect()
}
