//! The page, put together from its parts.

use std::sync::OnceLock;

const TEMPLATE: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
/// In this order, because a part uses what stands before it.
const SCRIPTS: [&str; 14] = [
    include_str!("page/base.js"),
    include_str!("page/api.js"),
    include_str!("page/documents.js"),
    include_str!("page/tiles.js"),
    include_str!("page/viewer.js"),
    include_str!("page/marks.js"),
    include_str!("page/tools.js"),
    include_str!("page/items.js"),
    include_str!("page/list.js"),
    include_str!("page/threshold.js"),
    include_str!("page/chart.js"),
    include_str!("page/learn.js"),
    include_str!("page/keys.js"),
    include_str!("page/main.js"),
];

/// The page with its own scripts and styles, which the browser knows by a nonce.
pub fn page(nonce: &str) -> String {
    static WHOLE: OnceLock<String> = OnceLock::new();
    let whole = WHOLE.get_or_init(|| TEMPLATE.replace("{{style}}", STYLE).replace("{{script}}", &SCRIPTS.concat()));
    whole.replace("{{nonce}}", nonce)
}
