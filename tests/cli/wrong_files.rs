//! Wrong files of PeerRelays: one message each, with place, rule and fix.

use crate::program::Program;

const SMALLEST: &str = "\
apiVersion: peerrelay.dev/v1alpha1
kind: PeerRelay
metadata: {name: edge}
spec:
  port: 40000
  tailnet: {authKey: {secretName: tailnet-auth}}
  regions:
  - {name: office, clients: ['tag:office']}
";

/// A part of [`SMALLEST`], its replacement, and the message.
const WRONG: [(&str, &str, &str); 5] = [
    (
        "metadata: {name: edge}",
        "metadata: {namespace: relays}",
        "relay.yaml:3: PeerRelay: metadata.name: is required, such as edge",
    ),
    (
        "port: 40000",
        "port: abc",
        "relay.yaml:5: PeerRelay default/edge: spec.port: must be a whole number from 1 to 65535, not a string",
    ),
    (
        "port: 40000",
        "port: 70000",
        "relay.yaml:5: PeerRelay default/edge: spec.port: must be 1 to 65535, not 70000",
    ),
    (
        ", clients: ['tag:office']",
        "",
        "relay.yaml:8: PeerRelay default/edge: spec.regions[0].clients: is required: Clients that \
         may use these relays, in the syntax of a tailnet policy: `tag:office`, `group:eng`, \
         `autogroup:member`, `alice@example.com`, a host alias, or an address or network of the \
         tailnet",
    ),
    (
        "clients:",
        "endpoints: {static: [203.0.113.10]}, clients:",
        "relay.yaml:8: PeerRelay default/edge: spec.regions[0].endpoints: endpoints.static: write \
         each as 203.0.113.10:40000, [2001:db8::1]:40000 or relay.example.net:40000",
    ),
];

#[test]
fn wrong_field_is_named_once_with_its_fix() {
    for (from, to, message) in WRONG {
        let run = Program::new(&["validate", "-f", "relay.yaml"])
            .file("relay.yaml", SMALLEST.replace(from, to))
            .run();
        run.says(1, &format!("{message}\nError: 1 problem"));
    }
}

#[test]
fn files_can_be_separated_by_commas_as_for_kubectl() {
    let other = SMALLEST.replace("edge", "other");
    let run = Program::new(&["validate", "-f", "a.yaml,b.yaml"])
        .file("a.yaml", SMALLEST)
        .file("b.yaml", other)
        .run();
    assert_eq!(
        (&*run.out, run.code),
        (
            "a.yaml: PeerRelay default/edge is valid\nb.yaml: PeerRelay default/other is valid\n",
            Some(0)
        )
    );
    Program::new(&["validate", "-f", "a.yaml,c.yaml"])
        .file("a.yaml", SMALLEST)
        .run()
        .says(
            1,
            "Error: failed to read c.yaml: No such file or directory (os error 2)",
        );
}

#[test]
fn byte_order_marks_are_skipped() {
    let marked = format!("\u{feff}{SMALLEST}");
    let other = SMALLEST.replace("edge", "other");
    for text in [marked.clone(), format!("{marked}---\n\u{feff}{other}")] {
        let run = Program::new(&["validate", "-f", "-"]).input(text).run();
        assert_eq!((&*run.err, run.code), ("", Some(0)));
    }
    let run = Program::relay(&["--config", "relay.yaml"])
        .file("relay.yaml", "\u{feff}port: abc\n")
        .run();
    assert!(
        run.err
            .starts_with("Error: failed to parse relay.yaml: port: "),
        "{}",
        run.err
    );
}

#[test]
fn empty_input_is_named() {
    for command in ["validate", "grants", "firewall", "import"] {
        for input in ["", " \n\n"] {
            Program::new(&[command, "-f", "-"]).input(input).run().says(
                1,
                "Error: standard input is empty: give it a manifest, such as the output of kubectl \
                 get -o yaml",
            );
        }
        Program::new(&[command, "-f", "relay.yaml"])
            .file("relay.yaml", "")
            .run()
            .says(
                1,
                "Error: relay.yaml is empty: give it a manifest, such as the output of kubectl get \
                 -o yaml",
            );
    }
}
