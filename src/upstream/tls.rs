//! TLS to upstream: the system's roots and `upstream.ca_file`, our own certificate, and what a failed handshake means.
//!
//! Deliberately not here: any way to skip the check of a certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::ClientCert;
use crate::relay::pairs::Disconnect;

/// What we speak inside TLS (RFC 7301): a server that offers only HTTP/2 says so at once instead of answering in it.
const HTTP_1_1: &[u8] = b"http/1.1";

/// Whom to believe. Roots are read at the first use and then kept for the life of the process.
#[derive(Clone)]
pub struct Trust {
    ca_file: Option<PathBuf>,
    /// Who we are, where upstream wants to know it by a certificate.
    client: Option<ClientCert>,
    config: Arc<OnceCell<Arc<ClientConfig>>>,
}

impl Trust {
    /// The system's roots and those in `ca_file`, and our own certificate.
    pub fn new(ca_file: Option<PathBuf>, client: Option<ClientCert>) -> Self {
        Trust { ca_file, client, config: Arc::default() }
    }

    /// Speaks TLS over a fresh connection and checks that the other side is `host`.
    pub async fn handshake(&self, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, Disconnect> {
        let config = self.config.get_or_try_init(|| load(self.ca_file.clone(), self.client.clone())).await?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|e| Disconnect::Tls(format!("{host} cannot stand in a certificate: {e}")))?;
        TlsConnector::from(config.clone()).connect(name, stream).await.map_err(classify)
    }
}

/// Reading some hundred files would hold up the feed, so a thread of its own does it.
async fn load(ca_file: Option<PathBuf>, client: Option<ClientCert>) -> Result<Arc<ClientConfig>, Disconnect> {
    let loaded = tokio::task::spawn_blocking(move || client_config(ca_file.as_deref(), client.as_ref())).await;
    loaded.unwrap_or_else(|e| Err(e.to_string())).map(Arc::new).map_err(Disconnect::Tls)
}

fn client_config(ca_file: Option<&Path>, client: Option<&ClientCert>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = ca_file {
        let wrong = |e: &dyn std::fmt::Display| format!("upstream.ca_file {}: {e}", path.display());
        for certificate in CertificateDer::pem_file_iter(path).map_err(|e| wrong(&e))? {
            roots.add(certificate.map_err(|e| wrong(&e))?).map_err(|e| wrong(&e))?;
        }
    }
    if roots.is_empty() {
        return Err("no trusted roots: install the system's CA certificates, or set upstream.ca_file".to_owned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let builder = builder.with_root_certificates(roots);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some(own) => authenticated(builder, own)?,
    };
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    Ok(config)
}

/// The last step of a configuration: who we are.
fn authenticated(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    ClientCert { cert_file, key_file }: &ClientCert,
) -> Result<ClientConfig, String> {
    let wrong = |key: &str, path: &Path, e: &dyn std::fmt::Display| format!("upstream.{key} {}: {e}", path.display());
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(cert_file).map_err(|e| wrong("client_cert_file", cert_file, &e))?.collect();
    let chain = chain.map_err(|e| wrong("client_cert_file", cert_file, &e))?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|e| wrong("client_key_file", key_file, &e))?;
    builder.with_client_auth_cert(chain, key).map_err(|e| wrong("client_cert_file", cert_file, &e))
}

/// A bad certificate and a server that speaks nothing that we speak are classes of their own: trying again soon will not mend
/// them.
fn classify(error: std::io::Error) -> Disconnect {
    use rustls::AlertDescription as Alert;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => Disconnect::TlsCertificate(why.to_string()),
        Some(rustls::Error::AlertReceived(Alert::NoApplicationProtocol)) => {
            Disconnect::TlsProtocol("the server does not speak HTTP/1.1".to_owned())
        }
        Some(rustls::Error::AlertReceived(Alert::ProtocolVersion)) | Some(rustls::Error::PeerIncompatible(_)) => {
            Disconnect::TlsProtocol(format!("the server speaks neither TLS 1.2 nor 1.3 with us: {error}"))
        }
        Some(other) => Disconnect::Tls(other.to_string()),
        None => Disconnect::Tls(format!("the connection ended in the handshake: {error}")),
    }
}
