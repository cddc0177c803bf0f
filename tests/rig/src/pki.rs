//! Certificates and kubeconfigs of the cluster and the tailnet, from a certificate authority made
//! for this run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};

use crate::{
    net::{CONTROL, NODES, ROUTER_V4},
    state::{State, write_private},
};

/// The URL of the API server in the namespaces of the rig.
pub const API_SERVER: &str = "https://10.89.0.1:6443";

/// The file with the private key that signs the tokens of service accounts.
pub const ACCOUNT_KEY: &str = "service-account.key";
/// The file with the public key of [`ACCOUNT_KEY`].
pub const ACCOUNT_PUBLIC_KEY: &str = "service-account.pub";
/// Names of a server on loopback.
const LOOPBACK: [&str; 2] = ["127.0.0.1", "localhost"];

/// The directory with keys, certificates and kubeconfigs.
#[derive(Clone, Debug)]
pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Uses what [`Pki::create`] made.
    pub fn open(state: &State) -> Self {
        Self {
            dir: state.path("pki"),
        }
    }

    /// Makes the authority and everything that it signs.
    pub fn create(state: &State) -> Result<Self> {
        let pki = Self {
            dir: state.dir("pki")?,
        };
        let authority = pki.authority()?;
        for (name, user, groups) in clients() {
            pki.issue(&authority, &name, &user, &groups, &[])?;
            pki.write_kubeconfig(&name)?;
        }
        for (name, addresses) in servers() {
            pki.issue(&authority, &name, &addresses[0], &[], &addresses)?;
        }
        pki.create_account_key()?;
        Ok(pki)
    }

    /// Makes, in an empty directory, what an API server on loopback needs whose clients have tokens.
    pub fn create_loopback(dir: &Path) -> Result<Self> {
        let pki = Self { dir: dir.into() };
        let addresses = LOOPBACK.map(str::to_owned);
        pki.issue(&pki.authority()?, "apiserver", LOOPBACK[0], &[], &addresses)?;
        pki.create_account_key()?;
        Ok(pki)
    }

    /// Makes the key that signs the tokens of service accounts.
    fn create_account_key(&self) -> Result<()> {
        let key = KeyPair::generate()?;
        write_private(&self.path(ACCOUNT_KEY), key.serialize_pem())?;
        write_private(&self.path(ACCOUNT_PUBLIC_KEY), key.public_key_pem())
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// A certificate or its key, by name.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// The kubeconfig of a client.
    pub fn kubeconfig(&self, client: &str) -> PathBuf {
        self.path(format!("{client}.kubeconfig"))
    }

    fn authority(&self) -> Result<CertifiedIssuer<'static, KeyPair>> {
        let mut params = params("peerrelay rig", &[], &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        write_private(&self.ca(), authority.pem())?;
        Ok(authority)
    }

    fn issue(
        &self,
        authority: &CertifiedIssuer<'_, KeyPair>,
        name: &str,
        common_name: &str,
        organisations: &[&str],
        addresses: &[String],
    ) -> Result<()> {
        let key = KeyPair::generate()?;
        let certificate = params(common_name, organisations, addresses)?
            .signed_by(&key, authority)
            .with_context(|| format!("failed to sign {name}"))?;
        write_private(&self.path(format!("{name}.crt")), certificate.pem())?;
        write_private(&self.path(format!("{name}.key")), key.serialize_pem())
    }

    fn write_kubeconfig(&self, client: &str) -> Result<()> {
        let credentials = json!({
            "client-certificate": self.path(format!("{client}.crt")),
            "client-key": self.path(format!("{client}.key")),
        });
        self.write_kubeconfig_of(client, API_SERVER, &credentials)
            .map(drop)
    }

    /// Writes the kubeconfig of a user with a bearer token, and gives its path.
    pub fn write_token_kubeconfig(&self, user: &str, server: &str, token: &str) -> Result<PathBuf> {
        self.write_kubeconfig_of(user, server, &json!({"token": token}))
    }

    fn write_kubeconfig_of(
        &self,
        user: &str,
        server: &str,
        credentials: &Value,
    ) -> Result<PathBuf> {
        let mut cluster = json!({"server": server});
        if server.starts_with("https:") {
            cluster["certificate-authority"] = json!(self.ca());
        }
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "rig",
            "clusters": [{"name": "rig", "cluster": cluster}],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": user}}],
        });
        let path = self.kubeconfig(user);
        write_private(&path, serde_yaml::to_string(&config)?)?;
        Ok(path)
    }
}

/// A random bearer token.
pub fn random_token() -> Result<String> {
    let secret = KeyPair::generate()?.serialize_der();
    Ok(format!("{:x}", Sha256::digest(secret)))
}

/// File name, user and groups of each client of the API server and the kubelets.
fn clients() -> Vec<(String, String, Vec<&'static str>)> {
    let mut clients: Vec<_> = [
        ("admin", "admin", vec!["system:masters"]),
        ("kubelet-client", "kube-apiserver", vec!["system:masters"]),
        (
            "controller-manager",
            "system:kube-controller-manager",
            vec![],
        ),
        ("scheduler", "system:kube-scheduler", vec![]),
        ("kube-proxy", "system:kube-proxy", vec![]),
    ]
    .map(|(name, user, groups)| (name.to_owned(), user.to_owned(), groups))
    .into();
    for node in NODES {
        let user = format!("system:node:{}", node.name);
        clients.push((node.name.into(), user, vec!["system:nodes"]));
    }
    clients
}

/// File name and addresses of each server.
fn servers() -> Vec<(String, Vec<String>)> {
    let kubernetes = [
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "kubernetes.default",
        "kubernetes",
        "localhost",
        "10.96.0.1",
        "127.0.0.1",
    ];
    let mut api_server: Vec<_> = kubernetes.map(str::to_owned).into();
    api_server.push(ROUTER_V4.to_string());
    let control = [
        "control.rig.ts.net".into(),
        "localhost".into(),
        "127.0.0.1".into(),
    ];
    let control = control
        .into_iter()
        .chain([CONTROL.v4.to_string(), CONTROL.v6.to_string()])
        .collect();
    let mut servers = vec![
        ("apiserver".into(), api_server),
        ("control".into(), control),
    ];
    for node in NODES {
        let addresses = vec![node.name.into(), node.v4.to_string(), node.v6.to_string()];
        servers.push((format!("{}-kubelet", node.name), addresses));
    }
    servers
}

fn params(
    common_name: &str,
    organisations: &[&str],
    addresses: &[String],
) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(addresses)?;
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    for organisation in organisations {
        params
            .distinguished_name
            .push(DnType::OrganizationName, *organisation);
    }
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::days(365);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    Ok(params)
}
