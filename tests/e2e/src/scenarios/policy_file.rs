//! Policy files that `peerrelay grants merge` writes and `peerrelay grants review` reads, given to the
//! real control servers.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use rig::{
    command::{program_in, run, run_with_input},
    deployment::{Deployment, Route},
    net::ROUTER,
};
use serde_json::{Value, json};

use super::{EDGE, SEARCH, Scenario, THIRTY, grants::in_force, is_relay, reset};

/// Policy under which clients talk to each other, in the way that people write.
const BASE: &str = r#"// Owned by the network team.
{
  "tagOwners": {
    "tag:office": ["OWNER"], // laptops
    "tag:other": ["OWNER"], // everything else
  },

  /* Clients reach each other. */
  "grants": [
    {"src": ["tag:office", "tag:other"], "dst": ["tag:office", "tag:other"], "ip": ["*"]},
    // {"src": ["*"], "dst": ["*"], "ip": ["*"]},
  ],
}
"#;

/// The same policy in other layouts.
const LAYOUTS: [&str; 4] = [
    r#"{"tagOwners":{"tag:office":["OWNER"],"tag:other":["OWNER"]},"grants":[{"src":["tag:office"],"dst":["tag:office"],"ip":["*"]}]}"#,
    "{\r\n\t\"grants\": [],\r\n\t\"tagOwners\": {\r\n\t\t\"tag:office\": [\"OWNER\"], \"tag:other\": [\"OWNER\"]\r\n\t}\r\n}\r\n",
    "{\n\"acls\": [{\"action\": \"accept\", \"src\": [\"*\"], \"dst\": [\"*:*\"]}],\n\"tagOwners\": {\"tag:office\": [\"OWNER\"], \"tag:other\": [\"OWNER\"],}\n}\n",
    "{\n  \"grants\": [{\"src\": [\"tag:office\"], \"dst\": [\"tag:office\"], \"ip\": [\"*\"]}], // one\n  \"tagOwners\": {\"tag:office\": [\"OWNER\"], /* two */ \"tag:other\": [\"OWNER\"]}\n}\n",
];

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "a policy file that peerrelay grants merge wrote is accepted by control in every layout \
               and brings the path back within 30 s, and grants review judges it with the cluster's \
               PeerRelays",
        run: merged,
    }]
}

fn merged(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let tailnet = &deployment.rig.tailnet;
    let relay = deployment.peer_relay(EDGE, &json!({}))?;
    let mut file = PolicyFile::new(deployment, "autogroup:admin")?;
    for layout in LAYOUTS {
        let merged = file.merge(layout, &relay, &[])?;
        tailnet
            .write_policy(&merged)
            .with_context(|| format!("control refuses:\n{merged}"))?;
    }
    file.write(BASE)?;
    tailnet.write_policy(&file.read()?)?;
    in_force(deployment, "False/GrantsMissing")?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    deployment.wait_route(c1, c2, |route| *route == Route::Derp, SEARCH)?;
    let checked = file.run("merge", &relay, &["--check"]);
    let words = format!(
        "{:#}",
        checked.err().context("--check finds no difference")?
    );
    let added = "+      \"dst\": [\"tag:relay-office\"],";
    ensure!(
        words.contains("exit status: 3") && words.contains(added),
        "--check says {words}"
    );
    let merged = file.merge(BASE, &relay, &[])?;
    file.run("merge", &relay, &["--check"])?;
    tailnet.write_policy(&merged)?;
    let (_, back) = deployment.wait_route(c1, c2, is_relay, THIRTY)?;
    in_force(deployment, "True/GrantsEffective")?;
    file.review(&[])?;

    let region = json!([{"name": "office", "clients": ["tag:office", "tag:other"]}]);
    deployment.apply(EDGE, &json!({"regions": region}))?;
    let found = file.review(&["missing-grant"])?;
    ensure!(
        found.contains("no grant lets tag:other use tag:relay-office"),
        "review says {found}"
    );
    let wider = deployment.peer_relay(EDGE, &json!({"regions": region}))?;
    file.run("merge", &wider, &[])?;
    tailnet.write_policy(&file.read()?)?;
    in_force(deployment, "True/GrantsEffective")?;
    file.review(&[])?;
    reset(deployment)?;
    file.review(&["unneeded-client"])?;
    Ok(format!(
        "{} layouts accepted, relayed {:.1} s after the merged policy was written",
        LAYOUTS.len() + 1,
        back.as_secs_f64()
    ))
}

/// Policy file of a scenario.
pub(super) struct PolicyFile<'a> {
    deployment: &'a Deployment<'a>,
    path: PathBuf,
    owner: &'static str,
}

impl<'a> PolicyFile<'a> {
    /// Creates a file whose tags belong to this owner.
    pub(super) fn new(deployment: &'a Deployment<'a>, owner: &'static str) -> Result<Self> {
        Ok(Self {
            deployment,
            path: deployment.rig.scratch("policy-file")?.join("policy.hujson"),
            owner,
        })
    }

    /// Policies without relays, in several layouts.
    pub(super) fn layouts() -> impl Iterator<Item = &'static str> {
        LAYOUTS.into_iter().chain([BASE])
    }

    /// Merges a PeerRelay into a policy, and returns the text of the file. A second merge must
    /// change nothing.
    pub(super) fn merge(&mut self, base: &str, relay: &Value, more: &[&str]) -> Result<String> {
        self.write(base)?;
        self.run("merge", relay, more)?;
        let merged = self.read()?;
        self.run("merge", relay, more)?;
        ensure!(self.read()? == merged, "a second merge changes the file");
        Ok(merged)
    }

    /// Path of the file.
    pub(super) fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// Writes the policy without relays in the way that people write.
    pub(super) fn write_base(&self) -> Result<()> {
        self.write(BASE)
    }

    /// Writes a policy.
    pub(super) fn write(&self, base: &str) -> Result<()> {
        Ok(fs::write(&self.path, base.replace("OWNER", self.owner))?)
    }

    fn read(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.path)?)
    }

    fn run(&self, command: &str, relay: &Value, more: &[&str]) -> Result<String> {
        let mut program = program_in(ROUTER, self.deployment.rig.program()?);
        program.args(["grants", command, &self.path(), "-f", "-"]);
        run_with_input(program.args(more), relay.to_string().as_bytes())
    }

    /// Reviews the file with the PeerRelays of the cluster, and expects findings of these kinds.
    fn review(&self, kinds: &[&str]) -> Result<String> {
        let rig = self.deployment.rig;
        let mut last = String::new();
        // The status of the PeerRelay follows the policy.
        self.deployment.eventually("the review finds it", || {
            let mut program = program_in(ROUTER, rig.program()?);
            program.env("KUBECONFIG", rig.kubeconfig());
            program.args(["grants", "review", &self.path(), "-o", "json", "--context"]);
            last = match run(&mut program) {
                Ok(said) => said,
                Err(error) => format!("{error:#}"),
            };
            let start = last.find('[').unwrap_or(0);
            let all: Value = serde_json::from_str(last[start..].trim())
                .with_context(|| format!("the review says {last}"))?;
            let found = all.as_array().into_iter().flatten();
            let found: Vec<_> = found
                .filter_map(|finding| finding["kind"].as_str())
                .collect();
            ensure!(found == kinds, "the review finds {all}");
            Ok(())
        })?;
        Ok(last)
    }
}
