//! Search for secrets of the run in everything that it left behind.

pub(crate) mod collector;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use rig::{auth_key, deployment::Deployment, tailnet::User};
use serde_json::Value;

use self::collector::Places;

/// Objects that say what people see; Secrets are where secrets belong.
const OBJECTS: &str = "events,peerrelays,relaynodes,tailnetcredentials,configmaps,daemonsets,pods,\
    services,leases,serviceaccounts,roles,rolebindings";
/// The name under which an auth key is reported.
const AUTH_KEY: &str = "an auth key";
/// The name under which an access token, auth key or client secret of the tailnet's API is reported.
const API_SECRET: &str = "a secret of the API";
/// Shorter text is no key of another kind, and is found by chance.
const SHORTEST: usize = 20;

/// Fails if a secret is in a log, an object, or an argument list.
pub(crate) fn check(deployment: &Deployment<'_>) -> Result<String> {
    let secrets = secrets(deployment)?;
    for wanted in [AUTH_KEY, API_SECRET, "a private key", "a token"] {
        ensure!(
            secrets.values().any(|kind| *kind == wanted),
            "{wanted} to search for was not found"
        );
    }
    let mut found = Vec::new();
    let mut places = 0;
    let mut search = |place: &str, text: &[u8]| {
        places += 1;
        for (secret, kind) in &secrets {
            if contains(text, secret.as_bytes()) {
                found.push(format!("{kind} in {place}"));
            }
        }
    };
    let collected = Places::of(deployment.rig)?;
    let mut files = vec![collected.arguments];
    collect(&deployment.rig.logs(), &mut files);
    let rig = files.len();
    collect(&collected.logs, &mut files);
    let pods = files.len() - rig;
    let deleted = pods.saturating_sub(pods_there(deployment)?);
    for file in files {
        let text = fs::read(&file).with_context(|| format!("failed to read {}", file.display()))?;
        search(&file.display().to_string(), &text);
    }
    let objects = deployment
        .rig
        .kubectl(["get", OBJECTS, "-A", "-o", "json"])?;
    search("objects", objects.as_bytes());
    ensure!(found.is_empty(), "{}", found.join("; "));
    Ok(format!(
        "{} secrets in none of {places} places, {deleted} of them logs of pods that are deleted",
        secrets.len()
    ))
}

/// Containers that exist, each with its log.
fn pods_there(deployment: &Deployment<'_>) -> Result<usize> {
    let words = ["get", "pods", "-A", "-o", "json"];
    let pods: Value = serde_json::from_str(&deployment.rig.kubectl(words)?)?;
    let pods = pods["items"].as_array().into_iter().flatten();
    let containers = pods.map(|pod| {
        let statuses = pod["status"]["containerStatuses"].as_array();
        statuses.map_or(0, Vec::len)
    });
    Ok(containers.sum())
}

/// Each secret, with a word for its kind.
fn secrets(deployment: &Deployment<'_>) -> Result<BTreeMap<String, &'static str>> {
    let mut secrets = BTreeMap::new();
    for secret in deployment.rig.tailnet.api(User::Admin)?.secrets()? {
        secrets.insert(secret, API_SECRET);
    }
    for key in auth_key::used() {
        secrets.insert(key.as_str().to_owned(), AUTH_KEY);
    }
    for node in &deployment.rig.nodes {
        let mut files = Vec::new();
        collect(&node.relay_state(), &mut files);
        for file in files.iter().filter(|file| file.ends_with("identity.json")) {
            let text =
                fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
            private_keys(&serde_json::from_slice(&text)?, &mut secrets);
        }
    }
    let tokens =
        fs::read_to_string(Places::of(deployment.rig)?.tokens).context("no tokens were kept")?;
    for token in tokens.lines() {
        secrets.insert(token.to_owned(), "a token");
    }
    secrets.retain(|secret, kind| *kind == AUTH_KEY || secret.len() >= SHORTEST);
    Ok(secrets)
}

/// Every long text in the identity is a key, with its kind before a colon.
fn private_keys(value: &Value, secrets: &mut BTreeMap<String, &'static str>) {
    match value {
        Value::Object(fields) => fields
            .values()
            .for_each(|field| private_keys(field, secrets)),
        Value::Array(items) if items.iter().all(Value::is_number) => {}
        Value::Array(items) => items.iter().for_each(|item| private_keys(item, secrets)),
        Value::String(text) => {
            let key = text.rsplit(':').next().unwrap_or(text);
            secrets.insert(key.to_owned(), "a private key");
        }
        _ => {}
    }
}

fn contains(text: &[u8], secret: &[u8]) -> bool {
    let first = secret[0];
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        rest = &rest[at..];
        if rest.starts_with(secret) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

/// Files below a directory, without following links.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_found_wherever_they_stand() {
        for text in ["key", "a key", "kkey", "keykey", "kekey."] {
            assert!(contains(text.as_bytes(), b"key"), "{text}");
        }
        assert!(!contains(b"ke y", b"key") && !contains(b"", b"key"));
    }

    #[test]
    fn keys_are_taken_out_of_an_identity_without_their_kind() {
        let mut secrets = BTreeMap::new();
        let identity =
            json!({"version": 1, "keys": {"node": "privkey:abc", "lock": ["nlpriv:def"]}});
        private_keys(&identity, &mut secrets);
        assert_eq!(secrets.into_keys().collect::<Vec<_>>(), ["abc", "def"]);
    }
}
