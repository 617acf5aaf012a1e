//! A certificate of a root that is retired meanwhile: the controller's admin's, as it was before the rotation. It does
//! not end by itself for long; what makes it worthless is that nobody believes its root any more.

use weft_tls::Credentials;

use super::{
    DemoError, Shop,
    control::Pems,
    plan::{CATALOG, CATALOG_V1_0},
    steps::failed,
};
use crate::cli::probe;

const WHAT: &str = "show what a certificate of a retired root is worth";

/// The certificate with its key, and the roots of then, in PEM.
pub(super) struct Retired(Pems);

impl Shop {
    /// The certificate as it is now, which the controller and a sidecar accept.
    ///
    /// # Errors
    /// One of them does not.
    pub(super) async fn keep_certificate(&mut self) -> Result<Retired, DemoError> {
        let kept = Retired(self.control.pems().map_err(failed(WHAT))?);
        let credentials = kept.credentials("").map_err(failed(WHAT))?;
        let (controller, sidecar) = self.worth(&credentials).await?;
        controller.and(sidecar).map_err(failed(WHAT))?;
        Ok(kept)
    }

    /// How the controller and a sidecar refuse a certificate whose root was retired. Its holder believes the new root as
    /// well: so it is its certificate that is judged, and not theirs.
    ///
    /// # Errors
    /// They do not.
    pub(super) async fn refused(&mut self, kept: &Retired) -> Result<[(&'static str, String); 2], DemoError> {
        let now = self.control.pems().map_err(failed(WHAT))?;
        let credentials = kept.credentials(&now.bundle).map_err(failed(WHAT))?;
        match self.worth(&credentials).await? {
            (Err(controller), Err(sidecar)) => {
                Ok([("the controller", controller), (CATALOG_V1_0.name, sidecar)])
            }
            (Ok(()), _) => Err(failed(WHAT)("the controller still accepts it".to_owned())),
            (_, Ok(())) => Err(failed(WHAT)(format!("{} still accepts it", CATALOG_V1_0.name))),
        }
    }

    /// What the controller and a sidecar say to it.
    async fn worth(
        &self,
        credentials: &Credentials,
    ) -> Result<(Result<(), String>, Result<(), String>), DemoError> {
        let controller = self.control.accepts(credentials).await;
        let identity = CATALOG_V1_0.identity();
        let identity = identity
            .parse()
            .map_err(|_| failed(WHAT)(format!("{identity} is none")))?;
        let sidecar = probe::call(
            credentials,
            self.subnet.mesh(&CATALOG_V1_0),
            &identity,
            CATALOG.host(),
            CATALOG.target.into(),
        );
        Ok((controller, sidecar.await))
    }
}

impl Retired {
    /// The certificate, for someone who also believes these roots.
    fn credentials(&self, more_roots: &str) -> Result<Credentials, String> {
        let Pems { chain, key, bundle } = &self.0;
        let bundle = format!("{bundle}\n{more_roots}");
        Credentials::from_pem(chain.as_bytes(), key.as_bytes(), bundle.as_bytes())
            .map_err(|error| error.to_string())
    }
}
