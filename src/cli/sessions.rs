//! Subcommand `sessions`: the sessions of the relay on this host.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};

use super::output::print;
use crate::relay::sessions::{self, ListedClient, ListedSession, SessionList};

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// One line for each session
    Table,
    /// With addresses, tags and keys
    Wide,
    /// All fields, for programs
    Json,
    /// The JSON that 'tailscale debug peer-relay-sessions' receives from tailscaled
    Localapi,
}

/// Sessions are available on the relay's own host only, to the user that runs the relay.
#[derive(Args)]
#[command(after_help = "Example: the sessions of a relay in Kubernetes\n  \
    kubectl -n relays exec ds/edge-office -- peerrelay sessions -o wide")]
pub(super) struct SessionsArgs {
    /// Session directory of the relay [default: the usual directories]
    #[arg(long, value_name = "DIR", env = "PEERRELAY_SESSION_DIR")]
    session_dir: Option<PathBuf>,
    /// Format of the output
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

impl SessionsArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let path = match self.output {
            Output::Localapi => sessions::LOCAL_API,
            _ => sessions::REPORT,
        };
        let body = self.get(path)?;
        let report = || -> anyhow::Result<SessionList> {
            serde_json::from_str(&body).context("failed to read what the relay says")
        };
        match self.output {
            Output::Json | Output::Localapi => print(&format!("{body}\n"))?,
            Output::Table => print(&table(&report()?, false))?,
            Output::Wide => print(&table(&report()?, true))?,
        }
        Ok(())
    }

    fn get(&self, path: &str) -> anyhow::Result<String> {
        let sockets = match &self.session_dir {
            Some(dir) => vec![dir.join(sessions::SOCKET)],
            None => sessions::usual_sockets(),
        };
        let stream = sockets
            .iter()
            .find_map(|path| UnixStream::connect(path).ok());
        let mut stream = stream.context(
            "failed to reach a relay on this host: run this beside it, as its user, and name its \
             directory with --session-dir",
        )?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        let Some((head, body)) = response.split_once("\r\n\r\n") else {
            bail!("failed to read what the relay says: it ends too early");
        };
        ensure!(
            head.split(' ').nth(1) == Some("200"),
            "the relay is of another version than this program: use the one in its image"
        );
        Ok(body.to_owned())
    }
}

fn table(report: &SessionList, wide: bool) -> String {
    let mut rows = vec![header(wide)];
    rows.extend(report.sessions.iter().map(|session| row(session, wide)));
    super::table::table(&rows)
}

fn header(wide: bool) -> Vec<String> {
    let all = ["VNI", "STATE", "PATH", "AGE", "CLIENTS", "PACKETS", "BYTES"];
    let more = ["ADDRESSES", "TAGS", "KEYS"];
    let more = more.into_iter().filter(|_| wide);
    all.into_iter().chain(more).map(str::to_owned).collect()
}

fn row(session: &ListedSession, wide: bool) -> Vec<String> {
    let each = |cell: fn(&ListedClient) -> String| session.clients.each_ref().map(cell).join(" | ");
    let name = |client: &ListedClient| match &client.name {
        Some(name) => name.node.split('.').next().unwrap_or_default().to_owned(),
        None => client.disco.clone(),
    };
    let mut row = vec![
        session.vni.to_string(),
        session.state.clone(),
        session.path.clone(),
        age(session.age_seconds),
        each(name),
        each(|client| client.packets.to_string()),
        each(|client| client.bytes.to_string()),
    ];
    if wide {
        row.push(each(|c| c.address.clone().unwrap_or_else(|| "-".into())));
        row.push(each(|c| {
            let tags = c.name.as_ref().map(|name| name.tags.join(","));
            tags.filter(|tags| !tags.is_empty())
                .unwrap_or_else(|| "-".into())
        }));
        row.push(each(|c| c.disco.clone()));
    }
    row
}

fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::sessions::Name;

    #[test]
    fn each_session_is_a_line_and_wide_tells_more() {
        let client = |node: Option<&str>, address: Option<&str>| ListedClient {
            disco: "d:0011223344556677".into(),
            name: node.map(|node| Name {
                node: format!("{node}.example.ts.net"),
                tags: vec!["tag:office".into()],
            }),
            address: address.map(str::to_owned),
            packets: 7,
            bytes: 900,
        };
        let report = SessionList {
            port: Some(40_000),
            sessions: vec![ListedSession {
                vni: 4_711,
                state: "connecting".into(),
                path: "socket".into(),
                age_seconds: 75,
                clients: [client(Some("c1"), Some("192.0.2.1:9")), client(None, None)],
            }],
        };
        let short = table(&report, false);
        let line =
            "4711   connecting   socket   1m15s   c1 | d:0011223344556677   7 | 7     900 | 900\n";
        assert!(short.ends_with(line), "{short}");
        let wide = table(&report, true);
        assert!(wide.contains("192.0.2.1:9 | -"), "{wide}");
        assert!(wide.contains("tag:office | -"), "{wide}");
    }
}
