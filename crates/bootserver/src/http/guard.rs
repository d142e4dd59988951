//! Who may ask for what. A route has a guard or cannot be made: [`Routes`] is the only way to one, and a handler gets its Machine from
//! the guard and from nowhere else.

use std::{convert::Infallible, str::FromStr, sync::Arc};

use axum::{
    Extension, Router,
    extract::{FromRequestParts, RawPathParams, Request, State, rejection::RawPathParamsRejection},
    handler::Handler,
    http::{Method, request::Parts},
    middleware::{self, Next},
    response::Response,
    routing::{self, MethodRouter},
};
use jiff::Timestamp;
use magnetite_api::{Architecture, Machine};
use magnetite_boot::{capability::Purpose, plan::Opens, scheme::Scheme};
use magnetite_daemon::clock;

use super::{later, layers, refuse_unknown};
use crate::{app::App, dhcp::unix, fence::Door, view::View};

/// Who may ask for a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Who has a machine's link, in its window or not: its script says what to do outside it.
    Script,
    /// Who has the same link, while the machine boots by its script. Not before, and not once its window is over, though the link be good.
    Boot,
    /// Who has the link that the machine's agent was told. The controller decides on claims; so this one is good an hour longer than the window.
    Agent,
    /// Who has the link that the agent of a box was told while it was held, for a day. It asks what became of the box, and learns no more than that.
    Held,
    /// Who has the link to a machine's sealed files. It lasts as long as the intent; what it leads to is of use to one key.
    Sealed,
    /// Anybody. The words say why that does no harm.
    Public(&'static str),
}

/// What a link to a boot was good for. Only a guard makes one.
#[derive(Clone)]
pub struct BootLink {
    /// What is declared, as the guard saw it.
    pub view: Arc<View>,
    /// Whose link it is.
    pub machine: Arc<Machine>,
    /// What the box is.
    pub architecture: Architecture,
    /// When it was asked.
    pub now: Timestamp,
}

/// What an agent's link was good for. Only a guard makes one.
#[derive(Clone)]
pub struct AgentLink {
    /// Whose link it is.
    pub machine: Arc<Machine>,
    /// When it was asked.
    pub now: Timestamp,
}

/// What the path of a link says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Named<'a> {
    /// The machine's id.
    pub id: &'a str,
    /// The capability.
    pub cap: &'a str,
    /// The architecture.
    pub arch: &'a str,
}

/// The Machine and architecture of a link that opens a boot, or its script; what its holder is told otherwise.
pub fn boot_link(app: &App, guard: Guard, named: Named<'_>, now: Timestamp) -> Result<BootLink, Box<Response>> {
    let view = app.view();
    let machine = app.authorize(&view, named.id, named.cap, Purpose::Boot, unix(now));
    let (Some(machine), Ok(architecture)) = (machine, Architecture::from_str(named.arch)) else {
        return Err(refuse_unknown().into());
    };
    if guard != Guard::Script {
        let profile = app.profile(&view, &machine);
        match app.opens(&view, &machine, profile.as_deref(), now) {
            Opens::Yes => {}
            Opens::Later { seconds, why } => return Err(later("NotYet", why, seconds).into()),
            // As if there were no such link: whoever has it has no business with it any more.
            Opens::No => return Err(refuse_unknown().into()),
        }
    }
    Ok(BootLink { view, machine, architecture, now })
}

/// Lets a request to a guarded route through, with what its link was good for.
async fn check(
    State((app, guard)): State<(Arc<App>, Guard)>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    // What is no text names nothing.
    let Ok(params) = params else { return refuse_unknown() };
    let now = clock::now();
    let part = |name| params.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value);
    let named = Named { id: part("id"), cap: part("cap"), arch: part("arch") };
    match guard {
        Guard::Public(_) => {}
        Guard::Script | Guard::Boot => match boot_link(&app, guard, named, now) {
            Ok(link) => drop(request.extensions_mut().insert(link)),
            Err(refusal) => return *refusal,
        },
        Guard::Held => match app.authorize_held(&app.view(), named.id, named.cap, unix(now)) {
            Some(machine) => drop(request.extensions_mut().insert(AgentLink { machine, now })),
            None => return refuse_unknown(),
        },
        Guard::Agent | Guard::Sealed => {
            let purpose = if guard == Guard::Agent { Purpose::Agent } else { Purpose::Sealed };
            match app.authorize(&app.view(), named.id, named.cap, purpose, unix(now)) {
                Some(machine) => drop(request.extensions_mut().insert(AgentLink { machine, now })),
                None => return refuse_unknown(),
            }
        }
    }
    next.run(request).await
}

impl<S: Sync> FromRequestParts<S> for BootLink {
    type Rejection = Response;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        parts.extensions.get().cloned().ok_or_else(refuse_unknown)
    }
}

impl<S: Sync> FromRequestParts<S> for AgentLink {
    type Rejection = Response;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        parts.extensions.get().cloned().ok_or_else(refuse_unknown)
    }
}

/// A route, as it was registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// How it is asked for.
    pub method: Method,
    /// Its pattern.
    pub path: &'static str,
    /// Who may ask.
    pub guard: Guard,
}

/// Routes in the making.
pub struct Routes {
    app: Arc<App>,
    door: Door,
    router: Router<Arc<App>>,
    table: Vec<Route>,
}

impl Routes {
    /// None yet.
    pub fn new(app: &Arc<App>, door: Door) -> Self {
        Self { app: Arc::clone(app), door, router: Router::new(), table: Vec::new() }
    }

    /// One that is asked for by GET or HEAD.
    pub fn get<H: Handler<T, Arc<App>>, T: 'static>(self, path: &'static str, guard: Guard, handler: H) -> Self {
        self.add(Method::GET, path, guard, routing::get(handler))
    }

    /// One that is asked for by POST.
    pub fn post<H: Handler<T, Arc<App>>, T: 'static>(self, path: &'static str, guard: Guard, handler: H) -> Self {
        self.add(Method::POST, path, guard, routing::post(handler))
    }

    fn add(
        mut self,
        method: Method,
        path: &'static str,
        guard: Guard,
        handler: MethodRouter<Arc<App>, Infallible>,
    ) -> Self {
        let state = (Arc::clone(&self.app), guard);
        self.router = self.router.route(path, handler.route_layer(middleware::from_fn_with_state(state, check)));
        self.table.push(Route { method, path, guard });
        self
    }

    /// All of them, behind what holds for every route.
    pub fn finish(self) -> Guarded {
        let Self { app, door, router, table } = self;
        let router = router.fallback(async || refuse_unknown()).with_state(Arc::clone(&app));
        Guarded { router: layers(router, app, door), table }
    }
}

/// Routes that have their guards: all that a listener takes.
pub struct Guarded {
    router: Router,
    table: Vec<Route>,
}

impl Guarded {
    /// The same routes, for a listener with TLS: what they lead to is asked for over TLS too.
    pub fn over_tls(self) -> Self {
        Self { router: self.router.layer(Extension(Scheme::Https)), ..self }
    }

    /// Which there are.
    #[cfg(test)]
    pub fn table(&self) -> &[Route] {
        &self.table
    }

    /// For a listener.
    pub fn into_router(self) -> Router {
        let routes = self.table.len();
        tracing::debug!(routes, "routes are served, each with its guard");
        self.router
    }
}
