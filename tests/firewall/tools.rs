//! Output for tools that change nothing here: the shell reads it, and the tools' own parsers where
//! they are installed.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use super::{NODE_PORT, fed::fed, printed, printed_for};

/// Tools whose output is a script.
const SCRIPTS: [&str; 10] = [
    "ufw",
    "iptables",
    "nftables",
    "firewalld",
    "aws",
    "gcp",
    "azure",
    "hetzner",
    "oracle",
    "digitalocean",
];
const TERRAFORM: [&str; 3] = ["terraform-aws", "terraform-google", "terraform-azurerm"];
/// Two sources of each family.
const SOURCES: [&str; 2] = [
    "--source",
    "192.0.2.0/24,198.51.100.0/24,2001:db8::/32,2001:db8:1::/48",
];

#[test]
fn every_script_is_one_that_a_shell_reads() {
    for tool in SCRIPTS {
        for text in outputs(tool) {
            let output = shell("bash", &["-n"], &text);
            assert!(output.status.success(), "{text}{}", said(&output));
        }
    }
}

#[test]
fn rules_of_oracle_cloud_are_json_with_every_source() {
    let text = printed("oracle", &SOURCES);
    let stub = "oci() { for last in \"$@\"; do :; done; echo \"$last\"; }\n";
    let output = shell("bash", &["-e"], &format!("{stub}NSG_ID=a\n{text}"));
    let rules: Value = serde_json::from_slice(&output.stdout).expect(&text);
    let sources: BTreeSet<_> = rules
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["source"].as_str())
        .collect();
    assert_eq!(sources.len(), 4, "{text}");
    for rule in rules.as_array().unwrap() {
        let range = &rule["udpOptions"]["destinationPortRange"];
        assert_eq!(
            (&rule["protocol"], &range["min"]),
            (&"17".into(), &40_000.into())
        );
    }
}

#[test]
fn files_of_terraform_are_what_terraform_writes_itself() {
    if !is_there("terraform") {
        return;
    }
    for tool in TERRAFORM {
        for text in outputs(tool) {
            let output = shell("terraform", &["fmt", "-check", "-diff", "-"], &text);
            let diff = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{text}{diff}{}", said(&output));
        }
    }
}

/// The command line of AWS checks the request, and makes none.
#[test]
fn aws_understands_its_commands() {
    if !is_there("aws") {
        return;
    }
    let stub = "aws() { command aws \"$@\" --generate-cli-skeleton output --no-sign-request \
                --region us-east-1 >/dev/null; }\nSECURITY_GROUP=sg-1\n";
    let first = first_command(&printed("aws", &[]));
    let output = shell("bash", &["-e"], &format!("{stub}{first}"));
    assert!(output.status.success(), "{first}{}", said(&output));
}

/// The command line of Google Cloud checks its arguments before it finds that nobody is logged in.
#[test]
fn gcloud_understands_its_commands() {
    if !is_there("gcloud") || !is_there("unshare") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let ask = |command: &str| {
        let script = format!(
            "export HOME={0} CLOUDSDK_CONFIG={0} CLOUDSDK_CORE_PROJECT=peer-relay-test
             export CLOUDSDK_CORE_CHECK_GCE_METADATA=false NETWORK=a NODE_TAG=b
             unset CLOUDSDK_CORE_ACCOUNT CLOUDSDK_AUTH_ACCESS_TOKEN_FILE \
                 CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE GOOGLE_APPLICATION_CREDENTIALS
             gcloud() {{ unshare -n gcloud \"$@\"; }}\n{command}",
            home.path().display()
        );
        shell("bash", &["-e"], &script)
    };
    let first = first_command(&printed("gcp", &[]));
    let output = ask(&first);
    assert_eq!(output.status.code(), Some(1), "{first}{}", said(&output));
    assert!(
        said(&output).contains("account"),
        "{first}{}",
        said(&output)
    );
    let wrong = first.replace("--source-ranges", "--source-range-of");
    assert_eq!(
        ask(&wrong).status.code(),
        Some(2),
        "it tells wrong arguments apart"
    );
}

/// ufw shows what it would do, and does nothing.
#[test]
fn ufw_understands_its_commands() {
    if !is_there("ufw") {
        return;
    }
    for text in outputs("ufw") {
        let script = format!("ufw() {{ command ufw --dry-run \"$@\" >/dev/null; }}\n{text}");
        let output = shell("bash", &["-e"], &script);
        assert!(output.status.success(), "{text}{}", said(&output));
    }
}

/// Local and forwarded ports, from everywhere and from some sources.
fn outputs(tool: &str) -> Vec<String> {
    vec![
        printed(tool, &[]),
        printed(tool, &SOURCES),
        printed_for(NODE_PORT, tool, &[]),
        printed_for(NODE_PORT, tool, &SOURCES),
    ]
}

fn first_command(text: &str) -> String {
    let mut commands = text.lines().filter(|line| !line.starts_with('#'));
    commands.next().expect(text).to_owned() + "\n"
}

fn shell(program: &str, arguments: &[&str], input: &str) -> Output {
    fed(Command::new(program).args(arguments), input)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn is_there(program: &str) -> bool {
    let paths = std::env::var("PATH").unwrap_or_default();
    let found = paths
        .split(':')
        .any(|dir| Path::new(dir).join(program).exists());
    if !found {
        skips::record(&format!("there is no {program}"));
    }
    found
}
