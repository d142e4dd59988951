//! When something was last heard of each watch of the cluster.
//!
//! A watch that is quiet and one whose connection is dead look alike to who waits for changes: kube keeps bookmarks to itself, and starts
//! a watch anew without a word. So it is listened for below it, where the answers come in: an API server sends a bookmark each minute
//! and ends a watch after 290 seconds, whereupon the next begins.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    http::{Method, Request, Response, Uri},
};
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use kube::client::Body as Question;
use magnetite_daemon::admin::Gate;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Layer, Service};

use crate::metrics::Metrics;

/// The kinds that are watched, as paths of the API name them.
pub const KINDS: [&str; 4] = ["machines", "profiles", "configmaps", "machineclaims"];
/// A watch of which nothing was heard for so long is dead: kube takes 295 seconds for its own look, and then needs some to connect.
pub const SILENT: Duration = Duration::from_secs(360);
/// How often it is looked.
const LOOK: Duration = Duration::from_secs(10);

/// When something was last heard.
#[derive(Debug, Clone)]
pub struct Heard(Arc<Mutex<BTreeMap<&'static str, Instant>>>);

impl Heard {
    /// Of each kind at this moment.
    pub fn new(now: Instant) -> Self {
        Self(Arc::new(Mutex::new(KINDS.map(|kind| (kind, now)).into())))
    }

    fn hear(&self, kind: &'static str, now: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(kind, now);
    }

    /// For how long nothing was heard of each kind.
    pub fn ages(&self, now: Instant) -> Vec<(&'static str, Duration)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(kind, heard)| (*kind, now.saturating_duration_since(*heard))).collect()
    }

    /// Says how old the news of the cluster are, and keeps `fresh` open while they are fresh, until `stop`. What is known is served in
    /// any case.
    pub async fn tell(self, metrics: Metrics, fresh: Gate, stop: CancellationToken) -> std::io::Result<()> {
        let mut were_fresh = true;
        loop {
            let ages = self.ages(Instant::now());
            for (kind, age) in &ages {
                metrics.watch_is_of(kind, *age);
            }
            let silent: Vec<_> = ages.iter().filter(|(_, age)| *age > SILENT).map(|(kind, _)| *kind).collect();
            let are_fresh = silent.is_empty();
            fresh.set(are_fresh);
            if were_fresh && !are_fresh {
                let kinds = silent.join(",");
                tracing::warn!(kinds, "nothing is heard of the cluster; serving what is known of it, which grows old");
            } else if are_fresh && !were_fresh {
                tracing::info!("the cluster is heard of again");
            }
            were_fresh = are_fresh;
            if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
                return Ok(());
            }
        }
    }
}

/// Listens to what a client of the API server is answered.
#[derive(Debug, Clone)]
pub struct Listen(pub Heard);

impl<S> Layer<S> for Listen {
    type Service = Listening<S>;
    fn layer(&self, inner: S) -> Listening<S> {
        Listening { inner, heard: self.0.clone() }
    }
}

/// A client that is listened to.
#[derive(Debug, Clone)]
pub struct Listening<S> {
    inner: S,
    heard: Heard,
}

impl<S, B> Service<Request<Question>> for Listening<S>
where
    S: Service<Request<Question>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: HttpBody<Data = axum::body::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Question>) -> Self::Future {
        let kind = kind_of(request.method(), request.uri());
        let (answer, heard) = (self.inner.call(request), self.heard.clone());
        Box::pin(async move {
            let answer = answer.await?;
            let Some(kind) = kind.filter(|_| answer.status().is_success()) else {
                return Ok(answer.map(Body::new));
            };
            heard.hear(kind, Instant::now());
            Ok(answer.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    heard.hear(kind, Instant::now());
                    frame
                }))
            }))
        })
    }
}

/// The kind that a question lists or watches.
fn kind_of(method: &Method, uri: &Uri) -> Option<&'static str> {
    let last = uri.path().rsplit('/').next().filter(|_| method == Method::GET)?;
    KINDS.into_iter().find(|kind| *kind == last)
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use futures::channel::mpsc;
    use magnetite_boot::capability::CapabilityKey;
    use magnetite_daemon::admin::Readiness;
    use serde_json::json;
    use tokio::sync::watch;

    use super::*;
    use crate::{fixtures::machine, store::cluster, view::View};

    fn question(path: &str) -> Request<Question> {
        Request::get(path).body(Question::empty()).unwrap()
    }

    fn age(heard: &Heard, kind: &str) -> u64 {
        heard.ages(Instant::now()).iter().find(|(one, _)| *one == kind).unwrap().1.as_secs()
    }

    async fn after(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_and_each_of_its_parts_are_heard_of_that_kind_alone() {
        let heard = Heard::new(Instant::now());
        let (bookmarks, stream) = mpsc::unbounded::<Result<&'static str, Infallible>>();
        let mut stream = Some(stream);
        let mut client = Listen(heard.clone()).layer(tower::service_fn(move |request: Request<Question>| {
            let watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let body = if watch { Body::from_stream(stream.take().unwrap()) } else { Body::from("{}") };
            let code = if request.uri().path().ends_with("profiles") { 403 } else { 200 };
            async move { Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap()) }
        }));
        after(100).await;
        client.call(question("/apis/magnetite.dev/v1alpha1/profiles")).await.unwrap();
        client.call(question("/apis/magnetite.dev/v1alpha1/machineclaims/box-1")).await.unwrap();
        assert_eq!(heard.ages(Instant::now()).iter().map(|(_, age)| age.as_secs()).collect::<Vec<_>>(), [100; 4]);
        let answer = client.call(question("/apis/magnetite.dev/v1alpha1/machines?watch=true")).await.unwrap();
        let mut body = answer.into_body();
        for _ in 0..10 {
            after(60).await;
            assert_eq!(age(&heard, "machines"), 60);
            bookmarks.unbounded_send(Ok("{}\n")).unwrap();
            body.frame().await.unwrap().unwrap();
            assert_eq!(age(&heard, "machines"), 0);
        }
        assert_eq!(age(&heard, "configmaps"), 700);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hears_nothing_of_one_kind_is_not_ready_until_it_does() {
        let (heard, metrics, readiness) = (Heard::new(Instant::now()), Metrics::default(), Readiness::default());
        let gate = readiness.gate("news of the cluster");
        let stop = CancellationToken::new();
        let telling = tokio::spawn(heard.clone().tell(metrics.clone(), gate, stop.clone()));
        let others = || KINDS[1..].iter().for_each(|kind| heard.hear(kind, Instant::now()));
        for _ in 0..6 {
            after(60).await;
            others();
        }
        assert!(readiness.closed().is_empty(), "360 seconds are what kube takes to see it itself");
        after(11).await;
        assert_eq!(readiness.closed(), ["news of the cluster"]);
        assert!(metrics.age_of_watch("machines") > 360 && metrics.age_of_watch("profiles") < 20);
        heard.hear("machines", Instant::now());
        after(11).await;
        assert!(readiness.closed().is_empty());
        assert!(metrics.age_of_watch("machines") < 20);
        stop.cancel();
        telling.await.unwrap().unwrap();
    }

    /// An API server that sends a bookmark each minute, and of which, while it is not there, nothing comes: no error and no end.
    async fn api_server(
        request: Request<Question>,
        mut there: watch::Receiver<bool>,
        watches: Arc<AtomicUsize>,
    ) -> Result<Response<Body>, Infallible> {
        let name = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let (kind, api) = match name.as_str() {
            "machines" => ("Machine", "magnetite.dev/v1alpha1"),
            "profiles" => ("Profile", "magnetite.dev/v1alpha1"),
            "machineclaims" => ("MachineClaim", "magnetite.dev/v1alpha1"),
            _ => ("ConfigMap", "v1"),
        };
        there.wait_for(|there| *there).await.unwrap();
        if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
            watches.fetch_add(1, Ordering::Relaxed);
            let object = json!({ "kind": kind, "apiVersion": api, "metadata": { "resourceVersion": "2" } });
            let bookmark = format!("{}\n", json!({ "type": "BOOKMARK", "object": object }));
            let bookmarks = futures::stream::unfold((there, bookmark), async |(mut there, bookmark)| {
                after(60).await;
                there.wait_for(|there| *there).await.ok()?;
                Some((Ok::<_, Infallible>(bookmark.clone()), (there, bookmark)))
            });
            return Ok(Response::new(Body::from_stream(bookmarks)));
        }
        let items = if kind == "Machine" { vec![machine("box")] } else { Vec::new() };
        let list = json!({
            "kind": format!("{kind}List"), "apiVersion": api, "metadata": { "resourceVersion": "1" }, "items": items,
        });
        Ok(Response::new(Body::from(list.to_string())))
    }

    /// R17, with kube's own watches: quiet for twenty minutes is well; of a dead connection it is known within six, and it is made anew.
    #[tokio::test(start_paused = true)]
    async fn watches_of_which_nothing_comes_are_seen_and_begun_anew_and_what_is_known_is_served_meanwhile() {
        let (heard, readiness) = (Heard::new(Instant::now()), Readiness::default());
        let (there, is_there) = watch::channel(true);
        let watches = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&watches);
        let answer = tower::service_fn(move |request| api_server(request, is_there.clone(), Arc::clone(&counted)));
        let client = kube::Client::new(Listen(heard.clone()).layer(answer), "default");
        let (writer, view) = watch::channel(Arc::new(View::default()));
        let (stop, key) = (CancellationToken::new(), CapabilityKey::new([7; 32]));
        let run = cluster::run(client, "magnetite".into(), key, writer, Metrics::default(), || {}, stop.clone());
        let running = tokio::spawn(run);
        let fresh = readiness.gate("news of the cluster");
        let telling = tokio::spawn(heard.clone().tell(Metrics::default(), fresh, stop.clone()));
        after(20 * 60).await;
        let oldest = || heard.ages(Instant::now()).iter().map(|(_, age)| age.as_secs()).max().unwrap();
        assert!(readiness.closed().is_empty() && oldest() <= 60, "{} s", oldest());
        assert_eq!((view.borrow().fleet.machines().count(), watches.load(Ordering::Relaxed)), (1, 4));
        there.send_replace(false);
        after(290).await;
        assert!(readiness.closed().is_empty(), "it may be quiet for so long");
        after(81).await;
        assert_eq!(readiness.closed(), ["news of the cluster"]);
        assert_eq!(view.borrow().fleet.machines().count(), 1, "served as it was");
        there.send_replace(true);
        after(30).await;
        assert!(readiness.closed().is_empty() && oldest() <= 30, "{} s", oldest());
        assert_eq!(watches.load(Ordering::Relaxed), 8, "each was begun anew");
        stop.cancel();
        running.await.unwrap().unwrap();
        telling.await.unwrap().unwrap();
    }
}
