//! The variables of a template. A loop, a macro and a `with` block have a scope of their own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::value::Value;

#[derive(Default)]
pub(super) struct Scope {
    variables: RefCell<HashMap<String, Value>>,
    outer: Option<Rc<Scope>>,
}

impl Scope {
    pub(super) fn within(outer: &Rc<Scope>) -> Rc<Scope> {
        Rc::new(Scope { variables: RefCell::default(), outer: Some(outer.clone()) })
    }

    pub(super) fn set(&self, name: &str, value: Value) {
        self.variables.borrow_mut().insert(name.to_owned(), value);
    }

    /// Forgets its own variables.
    pub(super) fn clear(&self) {
        drop(self.variables.take());
    }

    /// The innermost variable of this name.
    pub(super) fn get(&self, name: &str) -> Option<Value> {
        let mut scope = self;
        loop {
            if let Some(value) = scope.variables.borrow().get(name) {
                return Some(value.clone());
            }
            scope = scope.outer.as_deref()?;
        }
    }
}
