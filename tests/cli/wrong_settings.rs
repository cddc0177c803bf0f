//! Wrong flags, environment variables and configuration files: one message each, with its source and
//! an example of the right form.

use crate::program::Program;

/// Error of a relay whose settings are right, but whose state directory is a file.
const NO_STATE: &str = "Error: state directory a-file is a file: give a directory with --state-dir";

const PORT: &str =
    "expected a UDP port up to 65535, such as 40000, or nothing to turn the relay off";
const COUNT: &str = "expected a whole number of at least 1, such as 4";
const CONTROL_URL: &str = "expected a URL without a path, such as https://control.example.net";

/// Flag of a relay, its variable and field, a wrong value, and the form that is expected.
const SETTINGS: [[&str; 5]; 9] = [
    ["--port <PORT>", "PEERRELAY_PORT", "port", "abc", PORT],
    ["--port <PORT>", "PEERRELAY_PORT", "port", "70000", PORT],
    [
        "--threads <COUNT>",
        "PEERRELAY_THREADS",
        "threads",
        "0",
        COUNT,
    ],
    [
        "--threads <COUNT>",
        "PEERRELAY_THREADS",
        "threads",
        "many",
        COUNT,
    ],
    [
        "--metrics-addr <IP:PORT>",
        "PEERRELAY_METRICS_ADDR",
        "metricsAddr",
        "8080",
        "expected IP:PORT, such as 127.0.0.1:8080 or [::]:8080",
    ],
    [
        "--metrics-addr <IP:PORT>",
        "PEERRELAY_METRICS_ADDR",
        "metricsAddr",
        "localhost",
        "expected IP:PORT, such as 127.0.0.1:9440 or [::]:9440",
    ],
    [
        "--control-url <URL>",
        "PEERRELAY_CONTROL_URL",
        "controlURL",
        "foo",
        CONTROL_URL,
    ],
    [
        "--control-url <URL>",
        "PEERRELAY_CONTROL_URL",
        "controlURL",
        "https://control.example.net/path",
        CONTROL_URL,
    ],
    [
        "--hostname <NAME>",
        "PEERRELAY_HOSTNAME",
        "hostname",
        "!!!",
        "expected a name with a letter or digit, such as relay-berlin, or nothing for the name of the host",
    ],
];

#[test]
fn wrong_flag_is_named_with_the_right_form() {
    for [flag, _, _, value, form] in SETTINGS {
        let name = flag.split(' ').next().unwrap();
        let run = Program::relay(&[name, value]).run();
        run.refuses(&format!(
            "error: invalid value '{value}' for '{flag}': {form}"
        ));
    }
    let form = "expected a name with a letter or digit, such as relay-berlin, or nothing for the name of the host";
    Program::relay(&["--hostname", ""]).run().refuses(&format!(
        "error: invalid value '' for '--hostname <NAME>': {form}"
    ));
}

#[test]
fn wrong_variable_is_named_with_the_right_form() {
    for [flag, variable, _, value, form] in SETTINGS {
        let run = Program::relay(&[]).env(variable, value).run();
        run.refuses(&format!(
            "error: invalid value '{value}' for '{flag}' in the environment variable '{variable}': {form}"
        ));
    }
    Program::new(&["operator"])
        .env("PEERRELAY_CONCURRENCY", "0")
        .run()
        .refuses(
            "error: invalid value '0' for '--concurrency <COUNT>' in the environment variable \
             'PEERRELAY_CONCURRENCY': 0 is not in 1..=64",
        );
}

#[test]
fn wrong_field_is_named_with_file_and_right_form() {
    for [_, _, field, value, form] in SETTINGS {
        let run = Program::relay(&["--config", "relay.yaml"])
            .file("relay.yaml", format!("tags: []\n{field}: '{value}'\n"))
            .run();
        let begins = format!("Error: failed to parse relay.yaml: {field}: {form}");
        assert!(run.err.starts_with(&begins), "{begins}\n{}", run.err);
        assert!(
            run.err.trim_end().contains(" at line 2 column "),
            "{}",
            run.err
        );
        assert_eq!((run.code, run.err.lines().count()), (Some(1), 1));
    }
}

#[test]
fn flag_wins_over_its_variable_in_the_message_too() {
    Program::relay(&["--threads=0"])
        .env("PEERRELAY_THREADS", "4")
        .run()
        .refuses(&format!(
            "error: invalid value '0' for '--threads <COUNT>': {COUNT}"
        ));
}

#[test]
fn empty_variable_is_unset() {
    for variable in [
        "PEERRELAY_TAGS",
        "PEERRELAY_STATIC_ENDPOINTS",
        "PEERRELAY_CONTROL_URL",
        "PEERRELAY_HOSTNAME",
        "PEERRELAY_THREADS",
        "PEERRELAY_CONFIG",
        "PEERRELAY_EPHEMERAL",
        "PEERRELAY_LOG",
        "PEERRELAY_LOG_FORMAT",
    ] {
        let run = Program::relay(&[]).env(variable, "").run();
        assert_eq!(run.err.trim_end(), NO_STATE, "{variable}");
        run.says(1, NO_STATE);
    }
    let run = Program::new(&["operator"])
        .env("PEERRELAY_WATCH_NAMESPACES", "")
        .env("PEERRELAY_RELAY_MONITORING_LABELS", "")
        .run();
    assert!(
        run.err.starts_with("Error: failed to find a cluster"),
        "{}",
        run.err
    );
}

#[test]
fn file_with_certificate_authorities_is_checked() {
    let fix = "give a PEM file, with blocks that begin with -----BEGIN CERTIFICATE-----";
    Program::relay(&["--ca-file", "none.pem"]).run().says(
        1,
        &format!(
            "Error: failed to read certificate authorities from none.pem: {fix}: I/O error: No such file or \
             directory (os error 2)"
        ),
    );
    Program::relay(&["--ca-file", "ca.pem"])
        .file("ca.pem", "hello\n")
        .run()
        .says(
            1,
            &format!(
                "Error: failed to read certificate authorities from ca.pem: {fix}: no items found"
            ),
        );
}

#[test]
fn unknown_log_settings_are_refused() {
    Program::new(&["crd"])
        .env("PEERRELAY_LOG_FORMAT", "xml")
        .run()
        .says(
            2,
            "Error: PEERRELAY_LOG_FORMAT is 'xml': expected text or json",
        );
    let run = Program::new(&["crd"])
        .env("PEERRELAY_LOG", "peerrelay=loud")
        .run();
    run.says(
        2,
        "Error: PEERRELAY_LOG is 'peerrelay=loud': expected a level (error, warn, info, debug or \
         trace), or levels for parts of the program, such as peerrelay=debug,warn",
    );
}

#[test]
fn the_cause_of_a_failure_is_said_once() {
    Program::relay(&[]).run().says(1, NO_STATE);
    let run = Program::new(&["operator"]).run();
    let fix =
        "Error: failed to find a cluster: run in a pod with a service account, or set KUBECONFIG: ";
    assert!(run.err.starts_with(fix), "{}", run.err);
    assert_eq!(
        run.err.matches("No such file or directory").count(),
        1,
        "{}",
        run.err
    );
    assert_eq!(
        (run.code, run.err.lines().count()),
        (Some(1), 1),
        "{}",
        run.err
    );
}

#[test]
fn networks_of_firewalls_are_named_with_the_right_form() {
    for (given, form) in [
        ("1.2.3.4", "expected a network, such as 1.2.3.4/32"),
        ("2001:db8::1", "expected a network, such as 2001:db8::1/128"),
        (
            "1.2.3.4/8",
            "expected a network without bits of a host, such as 1.0.0.0/8",
        ),
        (
            "office",
            "expected a network, such as 203.0.113.0/24 or 2001:db8::/32",
        ),
    ] {
        Program::new(&["firewall", "-f", "relay.yaml", "--source", given])
            .run()
            .refuses(&format!(
                "error: invalid value '{given}' for '--source <CIDR>': {form}"
            ));
    }
}

#[test]
fn json_logs_are_flat() {
    let run = Program::relay(&["--config", "relay.yaml"])
        .file("relay.yaml", "prot: 1\n")
        .env("PEERRELAY_LOG_FORMAT", "json")
        .run();
    let line = run.err.lines().next().unwrap();
    let event: serde_json::Value = serde_json::from_str(line).unwrap();
    let fields: Vec<_> = event.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["field", "level", "message", "target", "timestamp"]);
    assert!(
        event
            .as_object()
            .unwrap()
            .values()
            .all(|value| value.is_string()),
        "{line}"
    );
}
