// The harness for a device that has nothing: the twin of harness.py and llamacpp.py for GGUF files, one static program over llama.cpp.
//
// It reads one JSON job (a line on standard input) and prints one JSON record per line, as harness.py does; the tests hold the two to
// the same answers. edgearte/device/native.py builds it.
//
// Where EDGEARTE_MARK is set it makes a system call that no kernel knows, 0xE47 with a phase and a number, at the borders of the work, so
// that an emulator that counts instructions (edgearte/device/count.c) tells the parts apart; a kernel answers ENOSYS and nothing happens.
//   1  a model is about to be loaded          2  it is loaded (the number is 0 for both)
//   3  a prompt is about to be read, or what prompts begin with alike (how many tokens, in all sequences)
//   4  it is read, and the first new token is chosen (the same number)
//   5  one more new token is chosen in every sequence (its index, from 0)

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "ggml-cpu.h"
#include "llama.h"
#include "machine.h"

using Tokens = std::vector<llama_token>;

static const int BATCH = 512;  // tokens per call of llama_decode, as in llamacpp.py
static const int PREFIX = 0;   // the sequence that holds a shared prefix; rows live in sequences 1, 2, …

struct Mistake : std::runtime_error {  // the user's, not ours
    using std::runtime_error::runtime_error;
};

enum Phase { LOADING = 1, LOADED, READING, READ, WROTE };

static void mark(Phase phase, size_t number = 0) {
    static const bool wanted = getenv("EDGEARTE_MARK") != nullptr;
    if (wanted) syscall(0xE47, (long) phase, (long) number);
}

static void emit(const json &record) {
    std::cout << record.dump(-1, ' ', false, json::error_handler_t::replace) << std::endl;
}

static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static std::string warnings;  // what llama.cpp said last, for a failure

static void keep(ggml_log_level level, const char *text, void *) {
    if (level != GGML_LOG_LEVEL_WARN && level != GGML_LOG_LEVEL_ERROR) return;
    warnings += text;
    if (warnings.size() > 2000) warnings.erase(0, warnings.size() - 2000);
    fputs(text, stderr);
}

static std::string reason() {
    std::string text = stripped(warnings);
    return text.empty() ? "it gave no reason" : text;
}

// ---- the engine, as llamacpp.py with one row at a time -----------------------------------------------------------------

struct Item {  // a token to decode
    llama_token token;
    int position, sequence;
    bool wanted;  // whether the likeliest token after it is
};

class Engine {
public:
    const int threads;
    int context;
    const llama_vocab *vocab;

    Engine(const std::string &path, int wanted) : threads(wanted ? wanted : cores()) {
        mark(LOADING);
        llama_model_params params = llama_model_default_params();
        params.n_gpu_layers = 0;
        warnings.clear();
        model.reset(llama_model_load_from_file(path.c_str(), params));
        if (!model) throw Mistake(path + ": llama.cpp cannot load this file:\n" + reason());
        vocab = llama_model_get_vocab(model.get());
        context = llama_model_n_ctx_train(model.get());
        ggml_threadpool_params pooled = ggml_threadpool_params_default(threads);
        pool.reset(ggml_threadpool_new(&pooled));  // else threads are made anew for every token
        mark(LOADED);
    }

    ~Engine() { llama_batch_free(batch); }

    Tokens tokens(const std::string &text) const {  // special tokens in it parsed, BOS before it where the model wants one
        Tokens ids(text.size() + 8);
        int count = llama_tokenize(vocab, text.data(), (int) text.size(), ids.data(), (int) ids.size(), false, true);
        if (count < 0) throw std::runtime_error("llama_tokenize wants more tokens than there are bytes");
        ids.resize(count);
        llama_token bos = llama_vocab_bos(vocab);
        if (bos >= 0 && llama_vocab_get_add_bos(vocab) && (ids.empty() || ids[0] != bos)) ids.insert(ids.begin(), bos);
        return ids;
    }

    std::string piece(llama_token token) const {  // its bytes; none of a special token
        std::string text(64, '\0');
        int size = llama_token_to_piece(vocab, token, text.data(), (int) text.size(), 0, false);
        if (size < 0) {
            text.resize(-size);
            size = llama_token_to_piece(vocab, token, text.data(), (int) text.size(), 0, false);
        }
        text.resize(size);
        return text;
    }

    void room(size_t cells, int sequences) {  // an empty context for so many tokens; kept: memory touched for the first time is slow
        if (held && cells <= spacious) return llama_memory_clear(memory(), false);
        llama_context_params params = llama_context_default_params();
        params.n_ctx = cells + 256;
        params.n_seq_max = sequences + 1;
        params.n_batch = params.n_ubatch = std::min<uint32_t>(BATCH, params.n_ctx);
        params.n_threads = params.n_threads_batch = threads;
        params.kv_unified = true;  // a forked prefix is then held once, not copied
        params.no_perf = true;
        warnings.clear();
        held.reset();
        held.reset(llama_init_from_model(model.get(), params));
        if (!held) throw Mistake("llama.cpp has no room for " + std::to_string(params.n_ctx) + " tokens of context:\n" + reason());
        llama_attach_threadpool(held.get(), pool.get(), nullptr);
        spacious = cells;
    }

    llama_memory_t memory() const { return llama_get_memory(held.get()); }

    Tokens decode(const std::vector<Item> &work) {  // the likeliest next tokens where they are wanted
        Tokens next;
        for (size_t from = 0; from < work.size(); from += BATCH) {
            batch.n_tokens = (int) std::min<size_t>(BATCH, work.size() - from);
            for (int i = 0; i < batch.n_tokens; i++) {
                const Item &item = work[from + i];
                batch.token[i] = item.token;
                batch.pos[i] = item.position;
                batch.n_seq_id[i] = 1;
                batch.seq_id[i][0] = item.sequence;
                batch.logits[i] = item.wanted;
            }
            int code = llama_decode(held.get(), batch);
            if (code) throw Mistake("llama.cpp failed to decode (code " + std::to_string(code) + "):\n" + reason());
            for (int i = 0; i < batch.n_tokens; i++)
                if (batch.logits[i]) next.push_back(likeliest(llama_get_logits_ith(held.get(), i)));
        }
        return next;
    }

private:
    template <auto Free> struct Freed {
        template <class T> void operator()(T *thing) const { Free(thing); }
    };
    std::unique_ptr<llama_model, Freed<llama_model_free>> model;
    std::unique_ptr<ggml_threadpool, Freed<ggml_threadpool_free>> pool;  // outlives the context that uses it
    std::unique_ptr<llama_context, Freed<llama_free>> held;
    llama_batch batch = llama_batch_init(BATCH, 0, 1);
    size_t spacious = 0;

    llama_token likeliest(const float *logits) const {  // the first of the greatest; in lanes, since a compiler may not reorder floats
        const int count = llama_vocab_n_tokens(vocab), LANES = 32;
        float lanes[LANES];
        std::fill(lanes, lanes + LANES, -INFINITY);
        int i = 0;
        for (; i + LANES <= count; i += LANES)
            for (int k = 0; k < LANES; k++) lanes[k] = logits[i + k] > lanes[k] ? logits[i + k] : lanes[k];
        float greatest = *std::max_element(lanes, lanes + LANES);
        for (; i < count; i++) greatest = std::max(greatest, logits[i]);
        return (llama_token) (std::find(logits, logits + count, greatest) - logits) % count;
    }
};

static void add(std::vector<Item> &work, Tokens::const_iterator from, Tokens::const_iterator to, int position, int sequence, bool wanted) {
    for (auto token = from; token != to; ++token) work.push_back({*token, position++, sequence, wanted && token + 1 == to});
}

// ---- the jobs, as in harness.py ----------------------------------------------------------------------------------------

struct Suite {
    std::string name;
    int prompt_tokens, new_tokens, repeats, warmups, depth, turns, batch;
    std::vector<std::string> prompts;

    explicit Suite(const json &s)
        : name(s.at("name")), prompt_tokens(s.at("prompt_tokens")), new_tokens(s.at("new_tokens")), repeats(s.at("repeats")),
          warmups(s.at("warmups")), depth(s.value("depth", 0)), turns(s.value("turns", 1)), batch(s.value("batch", 1)) {
        if (s.contains("prompts") && s["prompts"].is_array()) prompts = s["prompts"].get<std::vector<std::string>>();
    }
};

struct Timed {  // what one run reads: after the context, each of the turns
    Tokens context;
    std::vector<Tokens> turns;

    size_t length(const Suite &suite) const {  // of a sequence at its end
        size_t all = context.size() + turns.size() * suite.new_tokens;
        for (const Tokens &turn : turns) all += turn.size();
        return all;
    }
};

static Tokens passage(const Engine &engine, const std::string &text, size_t length) {  // exactly so many tokens of it, repeated
    size_t once = std::max<size_t>(engine.tokens(text).size() - 1, 1);
    std::string all;
    for (size_t k = 0; k * once < length; k++) all += text;
    Tokens ids = engine.tokens(all);
    ids.resize(std::min(length, ids.size()));
    return ids;
}

static std::vector<Timed> timed(const Engine &engine, const std::string &text, const Suite &suite) {
    std::vector<Timed> todo;
    for (const std::string &prompt : suite.prompts) {
        Tokens ids = engine.tokens(prompt);
        ids.resize(std::min<size_t>(ids.size(), suite.prompt_tokens));
        todo.push_back({{}, {ids}});
    }
    // The longest first, so that the room it needs is made before anything is timed.
    std::stable_sort(todo.begin(), todo.end(), [](const Timed &a, const Timed &b) { return a.turns[0].size() > b.turns[0].size(); });
    if (!todo.empty()) return todo;
    const Tokens ids = passage(engine, text, suite.depth + (size_t) suite.turns * suite.prompt_tokens);
    auto from = ids.begin() + suite.depth;
    todo.push_back({Tokens(ids.begin(), from), {}});
    for (int turn = 0; turn < suite.turns; turn++, from += suite.prompt_tokens) todo[0].turns.emplace_back(from, from + suite.prompt_tokens);
    return todo;
}

struct Run {
    double prefill, first;
    std::vector<double> steps;
};

static Run time_once(Engine &engine, const Timed &how, const Suite &suite) {
    engine.room(how.length(suite) * suite.batch, suite.batch);
    int position = 0;
    auto read = [&](const Tokens &ids) {
        std::vector<Item> work;
        for (int sequence = 1; sequence <= suite.batch; sequence++) add(work, ids.begin(), ids.end(), position, sequence, true);
        position += (int) ids.size();
        return engine.decode(work);
    };
    if (!how.context.empty()) read(how.context);
    Run run;
    for (const Tokens &turn : how.turns) {
        mark(READING, suite.batch * turn.size());
        double start = now();
        Tokens next = read(turn);
        run.prefill = run.first = now() - start;  // choosing the token takes no time that could be seen
        mark(READ, suite.batch * turn.size());
        run.steps.clear();
        std::vector<Item> work(suite.batch);
        for (int k = 0; k < suite.new_tokens; k++, position++) {
            start = now();
            for (int row = 0; row < suite.batch; row++) work[row] = {next[row], position, row + 1, true};
            next = engine.decode(work);
            run.steps.push_back(now() - start);
            mark(WROTE, k);
        }
    }
    return run;
}

static void measure(const json &job) {
    const Suite suite(job.at("suite"));
    const std::string path = job.at("artifact");
    const int threads = job.value("threads", 0);
    json machine = describe();  // before we are the load
    machine["llama-cpp-python"] = VERSION;  // whose package brought llama.cpp's source
    machine["llama.cpp"] = stripped(llama_print_system_info());
    const long before = bytes("/proc/self/status", "VmHWM");
    const bool cold = forget(path);
    double start = now();
    auto engine = std::make_unique<Engine>(path, threads);
    const double seconds = now() - start;
    emit({{"kind", "machine"}, {"machine", machine}, {"threads", engine->threads}});
    const std::vector<Timed> todo = timed(*engine, job.at("passage"), suite);
    size_t needed = 0;
    for (const Timed &how : todo) needed = std::max(needed, how.length(suite));
    if ((int) needed >= engine->context)
        throw Mistake("suite " + suite.name + " needs " + std::to_string(needed) + " tokens of context, this artifact has " +
                      std::to_string(engine->context));
    for (int number = 0; number < suite.warmups + suite.repeats * (int) todo.size(); number++) {
        const Timed &how = todo[number < suite.warmups ? 0 : (number - suite.warmups) % todo.size()];
        Watch watch;
        start = now();
        Run run = time_once(*engine, how, suite);
        if (number < suite.warmups) continue;
        json record = {{"kind", "run"}, {"prompt_tokens", how.turns.back().size()}, {"prefill_s", run.prefill},
                       {"first_token_s", run.first}, {"steps_s", run.steps}};
        record.update(watch.read(now() - start));
        emit(record);
    }
    emit({{"kind", "memory"},
          {"peak_bytes", bytes("/proc/self/status", "VmHWM")},
          {"steady_bytes", bytes("/proc/self/status", "VmRSS")},
          {"before_load_bytes", before}});
    json loads = json::array();
    if (!cold) loads.push_back(seconds);
    while ((int) loads.size() < suite.repeats) {
        engine.reset();
        start = now();
        engine = std::make_unique<Engine>(path, threads);
        loads.push_back(now() - start);
    }
    emit({{"kind", "load"}, {"cold_s", cold ? json(seconds) : json()}, {"load_s", loads}});
    const int read_by = engine->threads;
    engine.reset();
    emit({{"kind", "bandwidth"}, {"bytes_per_s", bandwidth(read_by)}});
}

struct Group {  // rows that declare the same prefix, and how many tokens their prompts truly share
    size_t shared = 0;
    std::vector<size_t> rows;
};

static std::vector<Group> shared_prefixes(const json &prompts, const std::vector<Tokens> &ids) {
    std::vector<Group> groups;
    std::map<std::string, size_t> known;
    for (size_t index = 0; index < ids.size(); index++) {
        auto [at, unseen] = known.try_emplace(prompts[index].value("prefix", ""), groups.size());
        if (unseen) groups.emplace_back();
        groups[at->second].rows.push_back(index);
    }
    for (const auto &[prefix, number] : known) {
        Group &group = groups[number];
        if (prefix.empty() || group.rows.size() < 2) continue;
        const Tokens &first = ids[group.rows[0]];
        group.shared = first.size() - 1;  // one token is left over for each row to start from
        for (size_t index : group.rows) {
            size_t most = std::min(group.shared, ids[index].size() - 1);
            group.shared = std::mismatch(first.begin(), first.begin() + most, ids[index].begin()).first - first.begin();
        }
    }
    return groups;
}

static size_t whole(const std::string &text) {  // bytes of it without a last character that is still incomplete
    size_t start = text.size();
    while (start > 0 && text.size() - start < 3 && ((unsigned char) text[start - 1] & 0xC0) == 0x80) start--;
    if (start == 0) return text.size();
    unsigned char lead = (unsigned char) text[start - 1];
    size_t length = lead >= 0xF5 ? 1 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC2 ? 2 : 1;
    return text.size() - start + 1 < length ? start - 1 : text.size();
}

static json write(Engine &engine, const Tokens &prompt, size_t shared, int most, const std::vector<std::string> &stops) {
    std::vector<Item> work;
    add(work, prompt.begin() + shared, prompt.end(), (int) shared, 1, true);
    mark(READING, work.size());
    llama_token token = engine.decode(work)[0];
    mark(READ, work.size());
    std::string text, ended;
    int written = 0;
    while (ended.empty()) {
        written++;
        text += llama_vocab_is_eog(engine.vocab, token) ? "" : engine.piece(token);
        size_t end = std::string::npos;
        for (const std::string &stop : stops) {
            size_t at = stop.empty() ? std::string::npos : text.find(stop);
            if (at != std::string::npos) end = std::min(end, at + stop.size());
        }
        if (llama_vocab_is_eog(engine.vocab, token)) ended = "eos";
        else if (end != std::string::npos) text.resize(end), ended = "stop";
        else if (written >= most) ended = "length";
        else {
            token = engine.decode({{token, (int) prompt.size() + written - 1, 1, true}})[0];
            mark(WROTE, written - 1);
        }
    }
    text.resize(whole(text));
    return {{"text", text}, {"prompt_tokens", prompt.size()}, {"new_tokens", written}, {"ended", ended}};
}

static void answer(const json &job) {
    Engine engine(job.at("artifact"), job.value("threads", 0));
    const json &prompts = job.at("prompts");
    const int most = job.at("max_tokens");
    const std::vector<std::string> stops = job.at("stop");
    const std::vector<size_t> skip = job.value("skip", std::vector<size_t>());
    std::vector<Tokens> ids;
    for (const json &p : prompts) {
        ids.push_back(engine.tokens(p.value("prefix", "") + p.at("text").get<std::string>()));
        if (ids.back().empty()) throw Mistake("a prompt is empty, and this model has no token to begin a text with");
        if ((int) ids.back().size() + most > engine.context)
            throw Mistake("a prompt of " + std::to_string(ids.back().size()) + " tokens and " + std::to_string(most) +
                          " new ones are more than the " + std::to_string(engine.context) +
                          " tokens this model was trained for; shorten the prompt or ask for fewer tokens");
    }
    const std::vector<Group> groups = shared_prefixes(prompts, ids);
    size_t longest = 0;
    for (const Group &group : groups)
        for (size_t index : group.rows) longest = std::max(longest, group.shared + ids[index].size() + most);
    engine.room(longest, 1);
    for (const Group &group : groups) {
        llama_memory_clear(engine.memory(), false);
        std::vector<Item> prefix;
        const Tokens &first = ids[group.rows[0]];
        add(prefix, first.begin(), first.begin() + group.shared, 0, PREFIX, false);
        mark(READING, prefix.size());
        engine.decode(prefix);
        mark(READ, prefix.size());
        for (size_t index : group.rows) {
            if (std::count(skip.begin(), skip.end(), index)) continue;
            llama_memory_seq_cp(engine.memory(), PREFIX, 1, -1, -1);
            json record = write(engine, ids[index], group.shared, most, stops);
            record.update({{"kind", "answer"}, {"index", index}});
            emit(record);
            llama_memory_seq_rm(engine.memory(), 1, -1, -1);
        }
    }
}

static void tether() {
    char byte;
    while (::read(0, &byte, 1) > 0) {}
    _exit(3);
}

int main() {
    std::string line;
    std::getline(std::cin, line);
    try {
        const json job = json::parse(line);
        if (job.value("tethered", false)) {
            signal(SIGINT, SIG_IGN);  // Ctrl-C is for the parent, which then lets go of the tether
            std::thread(tether).detach();
        }
        llama_log_set(keep, nullptr);
        llama_backend_init();
        const std::string kind = job.at("kind"), runtime = job.at("runtime");
        if (runtime != "llama.cpp") throw Mistake("this harness runs GGUF files with llama.cpp alone, not " + runtime);
        if (kind != "measure" && kind != "answer") throw Mistake("this harness knows the jobs measure and answer, not " + kind);
        kind == "measure" ? measure(job) : answer(job);
    } catch (const Mistake &error) {
        emit({{"kind", "error"}, {"message", error.what()}});
        return 2;
    } catch (const std::exception &error) {
        emit({{"kind", "error"}, {"message", error.what()}});
        return 1;
    }
    return 0;
}
