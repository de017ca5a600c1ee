//! `spo.h` and the Rust side of the border describe the same memory: sizes and offsets, field by field, as a C
//! compiler sees them. The snapshot makes a change of the border a deliberate one.

use std::fmt::Write;
use std::mem::{offset_of, size_of};
use std::process::Command;

use spo_api::abi::{
    self, BackendTable, BatchView, ByteSink, ColumnView, EntryTable, ErrorSink, EvaluationView, LogProbsView,
    LossesView, NeedsView, ObjectiveTable, OptimizerTable, PluginTable, ProblemTable, RaggedView, ReportView,
    RequirementsView, ScheduleTable, SessionTable, ShowSink, SideView, SpaceView, StepTable, Text,
    TokensView, UpdateView, VectorTable, WeighView,
};

/// A struct of the border: its names in C and Rust, and its fields in order.
macro_rules! layouts {
    ($($c:literal $rust:ty { $($field:ident),+ })+) => {
        vec![$(($c, size_of::<$rust>(), vec![$((stringify!($field), offset_of!($rust, $field))),+])),+]
    };
}

/// A struct: name in C, size, and offset of every field.
type Layout = (&'static str, usize, Vec<(&'static str, usize)>);

fn layouts() -> Vec<Layout> {
    layouts! {
        "spo_text" Text { bytes, length }
        "spo_error" ErrorSink { context, report }
        "spo_sink" ByteSink { context, write }
        "spo_ragged" RaggedView { values, offsets, rows }
        "spo_side" SideView { policy, reference, collision }
        "spo_column" ColumnView { name, values }
        "spo_batch" BatchView {
            size, layout, chosen, rejected, mismatched, gaps, whole_rows, whole_chosen_tokens,
            columns, column_count
        }
        "spo_evaluation" EvaluationView {
            size, has_rewards, losses, grad_chosen, grad_rejected, rewards_chosen, rewards_rejected, context, metric
        }
        "spo_requirements" RequirementsView {
            size, data, reference, collision, mismatched, gaps, whole_batch, least_rows, context, column
        }
        "spo_objective" ObjectiveTable { size, create, destroy, requirements, evaluate, begin, state, restore, evaluate_held }
        "spo_vectors" VectorTable {
            size, dimension, allocate, release, zero, copy, scale, axpy, dot, map, combine, decay
        }
        "spo_space" SpaceView { table, owner }
        "spo_losses" LossesView { upper, lower }
        "spo_weigh" WeighView { fixed, context, by }
        "spo_report" ReportView { size, losses, context, metric }
        "spo_problem" ProblemTable {
            size, context, vectors, gradient, lower, reference_lower, next_lower, descend, progress,
            lower_hessian_vector, upper_slope
        }
        "spo_needs" NeedsView { size, lower, reference_lower, hessian }
        "spo_step" StepTable { size, create, destroy, needs, passes, step, state, restore }
        "spo_update" UpdateView { size, lr, gradient_scale, count }
        "spo_optimizer" OptimizerTable { size, create, destroy, states, step, kernel, needs_kernel }
        "spo_schedule" ScheduleTable { size, create, destroy, factor }
        "spo_tokens" TokensView {
            size, groups, prompts, prompt_offsets, group_offsets, completions, completion_offsets
        }
        "spo_log_probs" LogProbsView { size, length, values, entropy, collision, greedy }
        "spo_show" ShowSink { context, show }
        "spo_session" SessionTable {
            size, vectors, destroy, info, log_probs, backward, generate, save, save_state,
            restore_state, hessian_vector, adopt_optimizer, optimize, backward_and_optimize,
            weigh_router_loss, router_loss, drop_out
        }
        "spo_backend" BackendTable { size, session, create, destroy, open }
        "spo_entry" EntryTable {
            size, kind, name, summary, source, schema, context, functions, aliases, alias_count
        }
        "spo_plugin_table" PluginTable { size, abi_version, name, version, entries, entry_count }
    }
}

/// What the Rust side says.
fn ours() -> String {
    let mut text = format!("version {}\n", abi::ABI_VERSION);
    for (name, size, fields) in layouts() {
        let _ = writeln!(text, "{name} {size}");
        for (field, offset) in fields {
            let _ = writeln!(text, "  {field} {offset}");
        }
    }
    text
}

#[test]
fn a_c_compiler_sees_the_same_layout() {
    let mut source = String::from("#include <stdio.h>\n#include \"spo.h\"\nint main(void) {\n");
    let _ = writeln!(source, "printf(\"version %d\\n\", SPO_ABI_VERSION);");
    for (name, _, fields) in layouts() {
        let _ = writeln!(source, "printf(\"{name} %zu\\n\", sizeof({name}));");
        for (field, _) in fields {
            let _ = writeln!(source, "printf(\"  {field} %zu\\n\", offsetof({name}, {field}));");
        }
    }
    source += "return 0; }\n";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("layout.c"), source).unwrap();
    std::fs::write(folder.path().join("spo.h"), abi::HEADER).unwrap();
    for (compiler, flags) in [("cc", &["-std=c99", "-pedantic"][..]), ("c++", &["-x", "c++"])] {
        let compiled = Command::new(compiler)
            .current_dir(folder.path())
            .args(flags)
            .args(["-Wall", "-Wextra", "-Werror", "-o", "layout", "layout.c"])
            .output();
        let Ok(compiled) = compiled else {
            test_support::skip("there is no C or C++ compiler to read spo.h with");
            continue;
        };
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let told = Command::new(folder.path().join("layout")).output().unwrap();
        assert_eq!(String::from_utf8(told.stdout).unwrap(), ours(), "{compiler}");
    }
}

#[test]
#[cfg(target_pointer_width = "64")]
fn the_layout_is_what_plugins_were_built_for() {
    // Fields may be added at the end of tables and structs that begin with their size. Anything else is a new
    // version of the border.
    insta::assert_snapshot!("layout", ours());
}
