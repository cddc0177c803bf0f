//! Certificates that a TLS server may show, in the forms of a DERP map (`tailcfg.DERPNode`).

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use sha2::{Digest, Sha256};

use super::DialError;

/// Prefix of a certificate's name that is the SHA-256 of the whole certificate, in hex.
const SHA256: &str = "sha256-raw:";

/// Certificate that a TLS server must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectedCertificate {
    /// A trusted certificate for the host's name.
    OfHost,
    /// A trusted certificate for this name. The client still requests the host's name (SNI).
    Named(String),
    /// The certificate with this SHA-256, for the host's name. Anyone may have signed it.
    Sha256([u8; 32]),
    /// Any certificate. What DERP servers forward is encrypted between devices.
    Any,
}

impl ExpectedCertificate {
    /// Reads the `CertName` of a DERP server. `None` if its checksum is not 64 hex digits.
    pub fn from_cert_name(text: &str) -> Option<Self> {
        if let Some(checksum) = text.strip_prefix(SHA256) {
            let mut bytes = [0; 32];
            hex::decode_to_slice(checksum, &mut bytes).ok()?;
            return Some(Self::Sha256(bytes));
        }
        match text {
            "" => Some(Self::OfHost),
            name => Some(Self::Named(name.to_owned())),
        }
    }

    /// Returns a TLS configuration that accepts this certificate and no other.
    ///
    /// # Errors
    /// The name is no DNS name and no address.
    pub(super) fn config(&self, roots: &Arc<RootCertStore>) -> Result<ClientConfig, DialError> {
        let builder = ClientConfig::builder();
        let other = match self {
            Self::OfHost => {
                return Ok(builder
                    .with_root_certificates(roots.clone())
                    .with_no_client_auth());
            }
            // As `tlsdial.SetConfigExpectedCert` of Tailscale: the server may be behind a front that is
            // requested by another name.
            Self::Named(name) => Check::Named(super::server_name(name)?, roots.clone()),
            Self::Sha256(checksum) => Check::Sha256(*checksum),
            Self::Any => Check::Nothing,
        };
        let verifier = Verifier {
            check: other,
            provider: builder.crypto_provider().clone(),
        };
        Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth())
    }
}

/// Verifier of certificates that are not those of the host's name.
#[derive(Debug)]
struct Verifier {
    check: Check,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Check {
    Named(ServerName<'static>, Arc<RootCertStore>),
    Sha256([u8; 32]),
    Nothing,
}

impl Verifier {
    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }

    fn trusting(&self, roots: Arc<RootCertStore>) -> Result<Arc<WebPkiServerVerifier>, Error> {
        WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))
    }

    /// Checks the checksum, the validity and the names of a certificate, and not who signed it. As
    /// `tlsdial.SetConfigExpectedCertHash` of Tailscale.
    fn verify_pinned(
        &self,
        checksum: &[u8; 32],
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        if Sha256::digest(certificate)[..] != checksum[..] {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        let certificate = ParsedCertificate::try_from(certificate)?;
        let authorities = RootCertStore::empty();
        let algorithms = self.algorithms().all;
        // Validity and purpose are checked first, so a certificate that lacks nothing but a known signer
        // is valid.
        match verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &authorities,
            &[],
            now,
            algorithms,
        ) {
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) | Ok(()) => {}
            Err(error) => return Err(error),
        }
        verify_server_name(&certificate, name)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.check {
            Check::Nothing => {}
            Check::Named(name, roots) => {
                let verifier = self.trusting(roots.clone())?;
                verifier.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)?;
            }
            Check::Sha256(checksum) => {
                self.verify_pinned(checksum, end_entity, server_name, now)?
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    // The signature proves that the server has the key of the certificate. Without this check, everyone
    // who has seen a certificate with a given checksum could show it.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signature, self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signature, self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
    use rustls::{ServerConfig, ServerConnection, pki_types::PrivateKeyDer};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// Returns whether a client that requests `host` and expects `expected` accepts this certificate.
    async fn accepts(
        expected: &ExpectedCertificate,
        host: &str,
        roots: RootCertStore,
        certificate: &CertificateDer<'static>,
        key: &KeyPair,
    ) -> bool {
        let server = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let (here, there) = tokio::io::duplex(64 * 1024);
        let serve = tokio::spawn(async move {
            let accepted = TlsAcceptor::from(Arc::new(server)).accept(there).await;
            accepted.is_ok_and(|stream| {
                let (_, connection): (_, &ServerConnection) = stream.get_ref();
                connection.server_name().is_some()
            })
        });
        let config = expected.config(&Arc::new(roots)).unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let connected = TlsConnector::from(Arc::new(config))
            .connect(name, here)
            .await;
        connected.is_ok() && serve.await.unwrap()
    }

    fn names(names: &[&str]) -> CertificateParams {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        CertificateParams::new(names).unwrap()
    }

    #[test]
    fn cert_name_is_a_name_or_a_checksum() {
        let read = ExpectedCertificate::from_cert_name;
        assert_eq!(read(""), Some(ExpectedCertificate::OfHost));
        let named = ExpectedCertificate::Named("cert.test".into());
        assert_eq!(read("cert.test"), Some(named));
        let checksum = format!("{SHA256}{}", "0a".repeat(32));
        assert_eq!(read(&checksum), Some(ExpectedCertificate::Sha256([10; 32])));
        assert_eq!(read("sha256-raw:0a"), None);
    }

    #[tokio::test]
    async fn certificate_is_accepted_by_its_name_although_another_is_requested() {
        let authority = CertifiedIssuer::self_signed(
            {
                let mut params = names(&[]);
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
                params
            },
            KeyPair::generate().unwrap(),
        )
        .unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = names(&["cert.test"]).signed_by(&key, &authority).unwrap();
        let roots = || {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone()).unwrap();
            roots
        };
        for (expected, roots, wanted) in [
            (
                ExpectedCertificate::Named("cert.test".into()),
                roots(),
                true,
            ),
            (
                ExpectedCertificate::Named("host.test".into()),
                roots(),
                false,
            ),
            (ExpectedCertificate::OfHost, roots(), false),
            (
                ExpectedCertificate::Named("cert.test".into()),
                RootCertStore::empty(),
                false,
            ),
        ] {
            let accepted = accepts(&expected, "host.test", roots, certificate.der(), &key).await;
            assert_eq!(accepted, wanted, "{expected:?}");
        }
    }

    #[tokio::test]
    async fn self_signed_certificate_is_accepted_by_its_checksum_for_its_names() {
        let key = KeyPair::generate().unwrap();
        let own = names(&["host.test"]).self_signed(&key).unwrap();
        let other = names(&["host.test"]).self_signed(&key).unwrap();
        let mut params = names(&["host.test"]);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let expired = params.self_signed(&key).unwrap();
        let of = |certificate: &rcgen::Certificate| {
            ExpectedCertificate::Sha256(Sha256::digest(certificate.der()).into())
        };
        for (expected, shown, host, wanted) in [
            (of(&own), &own, "host.test", true),
            (of(&own), &other, "host.test", false),
            (of(&own), &own, "else.test", false),
            (of(&expired), &expired, "host.test", false),
            (ExpectedCertificate::OfHost, &own, "host.test", false),
            (ExpectedCertificate::Any, &other, "else.test", true),
        ] {
            let roots = RootCertStore::empty();
            let accepted = accepts(&expected, host, roots, shown.der(), &key).await;
            assert_eq!(accepted, wanted, "{expected:?} for {host}");
        }
    }

    #[tokio::test]
    async fn certificate_of_unknown_authority_is_accepted_by_checksum_for_its_names() {
        let authority =
            CertifiedIssuer::self_signed(names(&[]), KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let signed = names(&["host.test"]).signed_by(&key, &authority).unwrap();
        let mut params = names(&["host.test"]);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let expired = params.signed_by(&key, &authority).unwrap();
        let mut params = names(&["host.test"]);
        params.not_before = rcgen::date_time_ymd(3000, 1, 1);
        let early = params.signed_by(&key, &authority).unwrap();
        for (shown, host, wanted) in [
            (&signed, "host.test", true),
            (&signed, "else.test", false),
            (&expired, "host.test", false),
            (&early, "host.test", false),
        ] {
            let expected = ExpectedCertificate::Sha256(Sha256::digest(shown.der()).into());
            let roots = RootCertStore::empty();
            let accepted = accepts(&expected, host, roots, shown.der(), &key).await;
            assert_eq!(accepted, wanted, "{expected:?} for {host}");
        }
    }
}
