//! Subcommand `import`: relays of Tailscale's own software as PeerRelays.

mod cluster;

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;

use super::{
    manifests::{self, Node, counted},
    output::{print, print_error},
};
use crate::{
    grants::Selector,
    import::{self, Effect, Import, Imported, Note},
    names,
};

/// Name of the result in messages about it.
const RESULT: &str = "result";

#[derive(Args)]
#[command(after_help = HELP)]
pub(super) struct ImportArgs {
    /// File or directory to convert, or '-' for standard input; can be repeated or separated by
    /// commas
    #[arg(
        short,
        long = "file",
        value_name = "FILE",
        required_unless_present = "from_cluster",
        value_delimiter = ','
    )]
    files: Vec<PathBuf>,
    /// Convert the PeerRelays of Tailscale's operator in the cluster of your kubeconfig. The
    /// command only reads
    #[arg(long, conflicts_with = "files")]
    from_cluster: bool,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME", requires = "from_cluster")]
    context: Option<String>,
    /// Namespace of the PeerRelays
    #[arg(short, long, value_name = "NAMESPACE", default_value = "relays", value_parser = namespace)]
    namespace: String,
    /// Client that may use the relays, in the syntax of a tailnet policy, such as tag:office; can
    /// be repeated or separated by commas. It is the 'src' of the grant in your policy [default: a
    /// placeholder]
    #[arg(long = "client", value_name = "CLIENT", value_delimiter = ',', value_parser = client)]
    clients: Vec<String>,
    /// Name of the Secret with the auth key
    #[arg(long, value_name = "NAME", default_value = "tailnet-auth", value_parser = secret)]
    auth_key_secret: String,
    /// Kubernetes node that replaces a host [default: the name of the host]
    #[arg(long, value_name = "NODE", value_parser = node)]
    node: Option<String>,
    /// Zone of an AWS subnet, for Elastic IPs; can be repeated [default: a placeholder]
    #[arg(long = "subnet-zone", value_name = "SUBNET=ZONE", value_parser = zone)]
    zones: Vec<(String, String)>,
    /// File for the PeerRelays [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Fail if a setting is not kept
    #[arg(long)]
    strict: bool,
}

const HELP: &str = "\
Examples: convert the relays of a cluster
  peerrelay import --from-cluster --client tag:office > relays.yaml
or of files, with the ProxyClasses and Tailnets that they name
  kubectl get peerrelays.tailscale.com,proxyclasses,tailnets -o yaml | peerrelay import -f -
or of a host with 'tailscale set --relay-server-port'
  tailscale debug prefs | peerrelay import -f - --node NODE

Standard error and comments in the result name every setting that is to do, not kept, or changed. \
The result passes 'peerrelay validate'. Nothing is applied, and no Secret is read. Next: do what \
is to do, 'peerrelay grants -f relays.yaml' for the tailnet policy, 'kubectl apply -f \
relays.yaml'. docs/migrate-from-tailscale.md describes a migration during which both relays serve.

Exit codes: 0 if all relays were converted, 1 if there is none, an input cannot be read, or with \
--strict a setting is not kept, 2 for incorrect usage, 141 if standard output is closed.";

/// Document of the input, with its file.
struct Source {
    file: String,
    node: Node,
}

impl ImportArgs {
    /// Converts the input and prints the PeerRelays.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let sources = match self.from_cluster {
            true => cluster::read(self.context.as_deref()).await?,
            false => self.read()?,
        };
        let documents: Vec<_> = sources.iter().map(|source| source.node.value()).collect();
        let import = import::import(&documents, &self.options());
        report(&import, &sources);
        ensure!(!import.relays.is_empty(), "{}", self.nothing());
        let yaml: String = import.relays.iter().map(|relay| &*relay.yaml).collect();
        match &self.output {
            None => print(&yaml)?,
            Some(file) => fs::write(file, &yaml)
                .with_context(|| format!("failed to write {}", file.display()))?,
        }
        check(&yaml)?;
        let lost = notes(&import).filter(|note| note.effect == Effect::Lost);
        let lost = lost.count();
        if self.strict && lost > 0 {
            bail!("{} not kept", counted(lost, "setting"));
        }
        Ok(())
    }

    fn read(&self) -> anyhow::Result<Vec<Source>> {
        let mut sources = Vec::new();
        for (file, bytes) in manifests::read(&self.files)? {
            let nodes = manifests::documents(&bytes)
                .map_err(|reason| anyhow::anyhow!("{file} is not YAML: {reason}"))?;
            sources.extend(nodes.into_iter().flat_map(|node| objects(&file, node)));
        }
        Ok(sources)
    }

    fn options(&self) -> import::Options {
        import::Options {
            namespace: self.namespace.clone(),
            clients: self.clients.clone(),
            auth_key_secret: self.auth_key_secret.clone(),
            node: self.node.clone(),
            zones: self.zones.iter().cloned().collect::<BTreeMap<_, _>>(),
        }
    }

    fn nothing(&self) -> String {
        let of = match self.from_cluster {
            true => "the cluster".to_owned(),
            false => manifests::named(&self.files),
        };
        format!(
            "there is no relay of Tailscale's in {of}: give the output of 'kubectl get \
             peerrelays.tailscale.com -o yaml' or of 'tailscale debug prefs'"
        )
    }
}

/// Returns the objects of a document, which may be a list.
fn objects(file: &str, node: Node) -> Vec<Source> {
    let source = |node| Source {
        file: file.to_owned(),
        node,
    };
    match node.items() {
        Some(items) => items.into_iter().map(source).collect(),
        None => vec![source(node)],
    }
}

/// Writes all notes to standard error.
fn report(import: &Import, sources: &[Source]) {
    for unused in &import.unused {
        let source = &sources[unused.document];
        let described = import::described(&source.node.value());
        let place = place(source, "");
        print_error(format_args!(
            "{place}: ignored: {described}: {}",
            unused.reason
        ));
    }
    for note in notes(import) {
        let source = &sources[note.place.document];
        let described = import::described(&source.node.value());
        let path = match &*note.place.path {
            "" => String::new(),
            path => format!("{path}: "),
        };
        let place = place(source, &note.place.path);
        let effect = note.effect.word();
        print_error(format_args!(
            "{place}: {effect}: {described}: {path}{}",
            note.message
        ));
    }
}

fn notes(import: &Import) -> impl Iterator<Item = &Note> {
    import
        .relays
        .iter()
        .flat_map(|relay: &Imported| &relay.notes)
}

fn place(source: &Source, path: &str) -> String {
    match source.node.line_of(path) {
        0 => source.file.clone(),
        line => format!("{}:{line}", source.file),
    }
}

/// Checks the result as `peerrelay validate` does.
fn check(yaml: &str) -> anyhow::Result<()> {
    let judged = manifests::judge_text(RESULT, yaml);
    manifests::report(&judged);
    let problems = manifests::problems(&judged);
    ensure!(
        problems == 0,
        "{} in the result: correct the result, or the input and convert again",
        counted(problems, "problem")
    );
    Ok(())
}

fn namespace(text: &str) -> Result<String, String> {
    match names::is_dns_label(text) {
        true => Ok(text.to_owned()),
        false => Err("expected the name of a namespace, such as relays".to_owned()),
    }
}

fn client(text: &str) -> Result<String, String> {
    Selector::parse(text)
        .map(|selector| selector.text().to_owned())
        .map_err(|error| error.to_string())
}

fn secret(text: &str) -> Result<String, String> {
    match names::is_dns_name(text) {
        true => Ok(text.to_owned()),
        false => Err("expected the name of a Secret, such as tailnet-auth".to_owned()),
    }
}

fn node(text: &str) -> Result<String, String> {
    match names::is_label_value(text) {
        true => Ok(text.to_owned()),
        false => Err("expected the label kubernetes.io/hostname of a node".to_owned()),
    }
}

fn zone(text: &str) -> Result<(String, String), String> {
    let fits = |text: &str| names::is_label_value(text);
    match text.split_once('=') {
        Some((subnet, zone)) if fits(subnet) && fits(zone) => {
            Ok((subnet.to_owned(), zone.to_owned()))
        }
        _ => Err("expected SUBNET=ZONE, such as subnet-0a1b2c3d=eu-central-1a".to_owned()),
    }
}
