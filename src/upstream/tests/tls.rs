//! TLS: who is believed, and what a failed handshake is called.

use std::path::PathBuf;
use std::sync::Arc;

use super::*;

/// What the server of [`serve_tls_as`] is like, where it is not as it should be.
#[derive(Default)]
struct Odd {
    expired: bool,
    alpn: &'static [u8],
}

/// A TLS server for `localhost` that says one thing, and the file with its CA.
async fn serve_tls(dir: &tempfile::TempDir) -> (SocketAddr, PathBuf) {
    serve_tls_as(dir, Odd::default()).await
}

async fn serve_tls_as(dir: &tempfile::TempDir, odd: Odd) -> (SocketAddr, PathBuf) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = rcgen::CertifiedIssuer::self_signed(ca, ca_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    if odd.expired {
        leaf.not_after = rcgen::date_time_ymd(2020, 1, 1);
    }
    let leaf = leaf.signed_by(&key, &ca).unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, ca.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = config.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key).unwrap();
    config.alpn_protocols = if odd.alpn.is_empty() { Vec::new() } else { vec![odd.alpn.to_vec()] };
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (address, _play) = serve(move |stream| async move {
        // The handshake fails on this side too where the client refuses.
        let Ok(mut stream) = acceptor.accept(stream).await else { return };
        accept(&mut stream).await;
        stream.write_all(&short(0x81, b"in private")).await.unwrap();
        stream.write_all(&short(0x88, &1000u16.to_be_bytes())).await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await;
    (address, ca_file)
}

#[tokio::test]
async fn certificates_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let (address, ca_file) = serve_tls(&dir).await;
        let url = format!("wss://localhost:{}/", address.port());
        let trusting = UpstreamConfig { ca_file: Some(ca_file), ..config(&url) };
        let (frames, reason) = Client::connect(&trusting).end().await;
        assert_eq!(reason, Disconnect::Closed { code: 1000, reason: String::new() });
        assert_eq!(frames, [WireFrame::Text(Bytes::from_static(b"in private"))]);

        let (address, ca_file) = serve_tls(&dir).await;
        let wrong_host = UpstreamConfig { ca_file: Some(ca_file.clone()), ..config(&format!("wss://{address}/")) };
        let reason = Client::connect(&wrong_host).end().await.1;
        assert!(matches!(&reason, Disconnect::TlsCertificate(why) if why.contains("127.0.0.1")), "{reason:?}");

        let (address, _) = serve_tls(&dir).await;
        let other_ca = rcgen::generate_simple_self_signed(vec!["other".to_owned()]).unwrap();
        std::fs::write(&ca_file, other_ca.cert.pem()).unwrap();
        let unknown_ca = config(&format!("wss://localhost:{}/", address.port()));
        let unknown_ca = UpstreamConfig { ca_file: Some(ca_file), ..unknown_ca };
        let reason = Client::connect(&unknown_ca).end().await.1;
        assert!(matches!(&reason, Disconnect::TlsCertificate(_)), "{reason:?}");

        let (address, ca_file) = serve_tls_as(&dir, Odd { expired: true, ..Odd::default() }).await;
        let expired = config(&format!("wss://localhost:{}/", address.port()));
        let expired = UpstreamConfig { ca_file: Some(ca_file), ..expired };
        let reason = Client::connect(&expired).end().await.1;
        assert!(matches!(&reason, Disconnect::TlsCertificate(why) if why.contains("expired")), "{reason:?}");
    })
    .await;
}

#[tokio::test]
async fn a_handshake_that_stalls_meets_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let any_root = rcgen::generate_simple_self_signed(vec!["any".to_owned()]).unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, any_root.cert.pem()).unwrap();
    run(async {
        let (address, _play) = serve(linger).await;
        let stalled = config(&format!("wss://localhost:{}/", address.port()));
        let handshake_timeout = Duration::from_millis(60);
        let stalled = UpstreamConfig { ca_file: Some(ca_file), handshake_timeout, ..stalled };
        assert_eq!(Client::connect(&stalled).end().await.1, Disconnect::HandshakeTimeout);
    })
    .await;
}

/// Old versions of TLS, and HTTP/2 alone: named as that, and nothing is ever spoken in their stead.
#[tokio::test]
async fn a_server_that_speaks_nothing_of_ours_is_named() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let reason_of = async |address: SocketAddr, ca_file: PathBuf| {
            let config = config(&format!("wss://localhost:{}/", address.port()));
            Client::connect(&UpstreamConfig { ca_file: Some(ca_file), ..config }).end().await.1
        };
        let (address, ca_file) = serve_tls_as(&dir, Odd { alpn: b"http/1.1", ..Odd::default() }).await;
        assert!(matches!(reason_of(address, ca_file).await, Disconnect::Closed { code: 1000, .. }));
        let (address, ca_file) = serve_tls_as(&dir, Odd { alpn: b"h2", ..Odd::default() }).await;
        let reason = reason_of(address, ca_file.clone()).await;
        assert!(matches!(&reason, Disconnect::TlsProtocol(why) if why.contains("HTTP/1.1")), "{reason:?}");

        // What TLS 1.0 says to a hello that offers 1.2 and 1.3: an alert, or its own version (RFC 5246 appendix E.1).
        let alert = b"\x15\x03\x01\x00\x02\x02\x46".to_vec();
        let hello =
            [b"\x16\x03\x01\x00\x2a\x02\x00\x00\x26\x03\x01".as_slice(), &[7; 32], b"\x00\x00\x2f\x00"].concat();
        for answer in [alert, hello] {
            let (address, _play) = serve(move |mut stream| async move {
                let mut first = [0; 5];
                stream.read_exact(&mut first).await.unwrap();
                stream.write_all(&answer).await.unwrap();
                linger(stream).await;
            })
            .await;
            let reason = reason_of(address, ca_file.clone()).await;
            assert!(matches!(&reason, Disconnect::TlsProtocol(why) if why.contains("TLS 1.2")), "{reason:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn other_faults_of_tls_are_not_the_certificate() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let (address, _play) = serve(|mut stream| async move {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            linger(stream).await;
        })
        .await;
        let any_root = rcgen::generate_simple_self_signed(vec!["any".to_owned()]).unwrap();
        let ca_file = dir.path().join("ca.pem");
        std::fs::write(&ca_file, any_root.cert.pem()).unwrap();
        let plain = config(&format!("wss://localhost:{}/", address.port()));
        let plain = UpstreamConfig { ca_file: Some(ca_file), ..plain };
        let reason = Client::connect(&plain).end().await.1;
        assert!(matches!(reason, Disconnect::Tls(_)), "{reason:?}");

        let (address, _play) = serve(linger).await;
        let missing = config(&format!("wss://localhost:{}/", address.port()));
        let missing = UpstreamConfig { ca_file: Some(dir.path().join("none.pem")), ..missing };
        let reason = Client::connect(&missing).end().await.1;
        assert!(matches!(&reason, Disconnect::Tls(why) if why.contains("upstream.ca_file")), "{reason:?}");
    })
    .await;
}

/// Who asks for our certificate gets it, and nobody else's will do.
#[tokio::test]
async fn upstream_may_want_to_know_who_we_are() {
    use rustls::pki_types::PrivateKeyDer;
    let dir = tempfile::tempdir().unwrap();
    let issuer = |name: &str| {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap()
    };
    let (ca, stranger) = (issuer("ours"), issuer("strange"));
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, ca.pem()).unwrap();
    let signed = |by: &rcgen::CertifiedIssuer<'_, rcgen::KeyPair>, name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, by).unwrap();
        (leaf, key)
    };
    let own = |by: &rcgen::CertifiedIssuer<'_, rcgen::KeyPair>, name: &str| {
        let (leaf, key) = signed(by, name);
        let (cert_file, key_file) = (dir.path().join(format!("{name}.pem")), dir.path().join(format!("{name}.key")));
        std::fs::write(&cert_file, leaf.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        Some(crate::config::ClientCert { cert_file, key_file })
    };
    let (leaf, key) = signed(&ca, "localhost");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let config_of =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let server = config_of.with_client_cert_verifier(verifier.build().unwrap());
    let server = Arc::new(server.with_single_cert(vec![leaf.der().clone()], key).unwrap());
    run(async {
        for (client_cert, good) in [(own(&ca, "us"), true), (own(&stranger, "them"), false), (None, false)] {
            let acceptor = tokio_rustls::TlsAcceptor::from(server.clone());
            let (address, _play) = serve(move |stream| async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                accept(&mut stream).await;
                stream.write_all(&short(0x88, &1000u16.to_be_bytes())).await.unwrap();
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
            })
            .await;
            let url = format!("wss://localhost:{}/", address.port());
            let known = UpstreamConfig { ca_file: Some(ca_file.clone()), client_cert, ..config(&url) };
            let reason = Client::connect(&known).end().await.1;
            assert_eq!(matches!(reason, Disconnect::Closed { code: 1000, .. }), good, "{reason:?}");
        }
        let missing = Some(crate::config::ClientCert { cert_file: ca_file.clone(), key_file: ca_file.clone() });
        let (address, _play) = serve(linger).await;
        let url = format!("wss://localhost:{}/", address.port());
        let reason = Client::connect(&UpstreamConfig { client_cert: missing, ..config(&url) }).end().await.1;
        assert!(matches!(&reason, Disconnect::Tls(why) if why.contains("upstream.client_key_file")), "{reason:?}");
    })
    .await;
}
