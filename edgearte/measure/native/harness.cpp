// The harness for a device that has nothing: the twin of harness.py and llamacpp.py in one static program over llama.cpp.
//
// It reads one JSON job (a line on standard input) and prints one JSON record per line, as harness.py does; the two are held to the
// same answers by the tests. Where EDGEARTE_MARK is set, it makes a system call that no kernel knows around each phase of the work,
// so that an emulator that counts instructions can tell them apart (edgearte/device/count.c).

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "ggml-backend.h"
#include "llama.h"
#include "nlohmann/json.hpp"

using nlohmann::json;
using Tokens = std::vector<llama_token>;

static const int BATCH = 512;  // tokens per call of llama_decode, as in llamacpp.py

struct Mistake : std::runtime_error {  // the user's, not ours
    using std::runtime_error::runtime_error;
};

enum Phase { LOADING = 1, LOADED, READING, READ, WROTE };

static void mark(Phase phase, long number = 0) {
    static const bool wanted = getenv("EDGEARTE_MARK") != nullptr;
    if (wanted) syscall(0xE47, (long) phase, number);
}

static std::string warnings;  // what llama.cpp warned of, for a failure

static void keep(ggml_log_level level, const char *text, void *) {
    if (level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR) {
        warnings = (warnings + text).substr(std::max<long>(0, (long) (warnings.size() + strlen(text)) - 2000));
        fputs(text, stderr);
    }
}

static void emit(const json &record) {
    std::cout << record.dump(-1, ' ', false, json::error_handler_t::replace) << std::endl;
}

static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// ---- the machine -------------------------------------------------------------------------------------------------------

static std::string text_of(const std::string &path) {
    std::ifstream file(path);
    std::stringstream all;
    all << file.rdbuf();
    std::string text = all.str();
    while (!text.empty() && (isspace((unsigned char) text.back()) || text.back() == '\0')) text.pop_back();
    return text;
}

static std::string field(const std::string &text, const std::string &name) {  // "name   : value" of the first such line
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        size_t colon = line.find(':');
        if (line.compare(0, name.size(), name) || colon == std::string::npos) continue;
        size_t at = line.find_first_not_of(" \t", colon + 1);
        return at == std::string::npos ? "" : line.substr(at);
    }
    return "";
}

static long kilobytes(const std::string &path, const std::string &name) {
    return atol(field(text_of(path), name).c_str()) * 1024;
}

static int cores() {  // physical ones: siblings counted once
    std::set<std::string> found;
    int usable = (int) std::max(1u, std::thread::hardware_concurrency());
    cpu_set_t mask;
    bool known = sched_getaffinity(0, sizeof mask, &mask) == 0;
    for (int n = 0; n < CPU_SETSIZE && known; n++) {
        if (!CPU_ISSET(n, &mask)) continue;
        std::string siblings =
            text_of("/sys/devices/system/cpu/cpu" + std::to_string(n) + "/topology/thread_siblings_list");
        found.insert(siblings.empty() ? std::to_string(n) : siblings);
    }
    return found.empty() ? usable : (int) found.size();
}

static json describe() {
    static const char *FEATURES[] = {"sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni",
                                     "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "asimd", "neon", "asimdhp",
                                     "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"};
    std::string info = text_of("/proc/cpuinfo");
    std::string flags = " " + field(info, "flags") + field(info, "Features") + " ";
    std::string name = field(info, "model name");
    for (const char *other : {"Hardware", "Model"}) name = name.empty() ? field(info, other) : name;
    if (name.empty()) name = text_of("/proc/device-tree/model");
    json features = json::array();
    for (const char *feature : FEATURES)
        if (flags.find(std::string(" ") + feature + " ") != std::string::npos) features.push_back(feature);
    utsname system{};
    uname(&system);
    double load[3];
    bool loaded = getloadavg(load, 3) == 3;
    std::string governor = text_of("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    return {{"cpu", name.empty() ? system.machine : name},
            {"architecture", system.machine},
            {"cores", cores()},
            {"logical_cores", std::max(1u, std::thread::hardware_concurrency())},
            {"features", features},
            {"virtual", flags.find(" hypervisor ") != std::string::npos},
            {"memory_bytes", kilobytes("/proc/meminfo", "MemTotal")},
            {"memory_available_bytes", kilobytes("/proc/meminfo", "MemAvailable")},
            {"os", field(text_of("/etc/os-release"), "PRETTY_NAME").empty() ? system.sysname : text_of("/etc/os-release")},
            {"kernel", system.release},
            {"governor", governor.empty() ? json() : json(governor)},
            {"load_average", loaded ? json({load[0], load[1], load[2]}) : json()}};
}

static json conditions() {  // what the device tells of itself: conditions.py has more ways to ask
    std::string clock = text_of("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq");
    double hottest = 0;
    for (int n = 0; n < 32; n++) {
        std::string heat = text_of("/sys/class/thermal/thermal_zone" + std::to_string(n) + "/temp");
        if (!heat.empty()) hottest = std::max(hottest, atof(heat.c_str()) / 1000);
    }
    return {{"clock_mhz", clock.empty() ? json() : json(atof(clock.c_str()) / 1000)},
            {"temperature_c", hottest > 0 ? json(hottest) : json()},
            {"throttled", nullptr},
            {"energy_j", nullptr}};
}

static bool forget(const std::string &path) {  // have the system read the file from the disk again
    int file = open(path.c_str(), O_RDONLY);
    if (file < 0) return false;
    fsync(file);
    bool asked = posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0;
    close(file);
    return asked;
}

// ---- the engine --------------------------------------------------------------------------------------------------------

class Engine {
public:
    int threads, context;
    const llama_vocab *vocab;

    Engine(const std::string &path, int wanted) : threads(wanted ? wanted : cores()) {
        mark(LOADING);
        llama_model_params params = llama_model_default_params();
        params.n_gpu_layers = 0;
        warnings.clear();
        model = llama_model_load_from_file(path.c_str(), params);
        mark(LOADED);
        if (!model) throw Mistake(path + ": llama.cpp cannot load this file:\n" + warnings);
        vocab = llama_model_get_vocab(model);
        context = llama_model_n_ctx_train(model);
    }

    ~Engine() {
        if (held) llama_free(held);
        llama_model_free(model);
    }

    Tokens tokens(const std::string &text) const {  // special tokens in it parsed, BOS where the model wants one
        Tokens ids(text.size() + 8);
        int count = llama_tokenize(vocab, text.data(), (int) text.size(), ids.data(), (int) ids.size(), false, true);
        if (count < 0) throw std::runtime_error("llama_tokenize wants more tokens than there are bytes");
        ids.resize(count);
        llama_token bos = llama_vocab_bos(vocab);
        if (bos >= 0 && llama_vocab_get_add_bos(vocab) && (ids.empty() || ids[0] != bos)) ids.insert(ids.begin(), bos);
        return ids;
    }

    std::string piece(llama_token token) const {
        std::string bytes(64, '\0');
        int size = llama_token_to_piece(vocab, token, bytes.data(), (int) bytes.size(), 0, false);
        if (size < 0) {
            bytes.resize(-size);
            size = llama_token_to_piece(vocab, token, bytes.data(), (int) bytes.size(), 0, false);
        }
        bytes.resize(size);
        return bytes;
    }

    void room(int length, int sequences) {  // a context for so many sequences of this length; kept while it is large enough
        if (held && length * sequences <= spacious && sequences <= parallel) return clear();
        if (held) llama_free(held);
        llama_context_params params = llama_context_default_params();
        params.n_ctx = length * sequences + 256;
        params.n_seq_max = sequences + 1;
        params.n_batch = params.n_ubatch = std::min<uint32_t>(BATCH, params.n_ctx);
        params.n_threads = params.n_threads_batch = threads;
        params.kv_unified = true;
        params.no_perf = true;
        warnings.clear();
        held = llama_init_from_model(model, params);
        if (!held) throw Mistake("llama.cpp has no room for " + std::to_string(params.n_ctx) + " tokens of context:\n" + warnings);
        spacious = length * sequences;
        parallel = sequences;
    }

    void clear() { llama_memory_clear(llama_get_memory(held), false); }

    void cut(int from) { llama_memory_seq_rm(llama_get_memory(held), 1, from, -1); }

    // Decode the same tokens in sequences 1 to `sequences`; the likeliest next token of each.
    Tokens read(const Tokens &ids, int position, int sequences) {
        std::vector<Tokens> rows(sequences, ids);
        return decode(rows, position);
    }

    Tokens decode(const std::vector<Tokens> &rows, int position) {
        Tokens next;
        llama_batch batch = llama_batch_init(BATCH, 0, 1);
        batch.n_tokens = 0;
        auto run = [&] {
            int code = llama_decode(held, batch);
            if (code) throw Mistake("llama.cpp failed to decode (code " + std::to_string(code) + "):\n" + warnings);
            for (int i = 0; i < batch.n_tokens; i++)
                if (batch.logits[i]) next.push_back(likeliest(llama_get_logits_ith(held, i)));
            batch.n_tokens = 0;
        };
        for (size_t row = 0; row < rows.size(); row++)
            for (size_t k = 0; k < rows[row].size(); k++) {
                int i = batch.n_tokens++;
                batch.token[i] = rows[row][k];
                batch.pos[i] = position + (int) k;
                batch.n_seq_id[i] = 1;
                batch.seq_id[i][0] = (int) row + 1;
                batch.logits[i] = k + 1 == rows[row].size();
                if (batch.n_tokens == BATCH) run();
            }
        if (batch.n_tokens) run();
        llama_batch_free(batch);
        return next;
    }

private:
    llama_model *model;
    llama_context *held = nullptr;
    int spacious = 0, parallel = 0;

    llama_token likeliest(const float *logits) const {
        return (llama_token) (std::max_element(logits, logits + llama_vocab_n_tokens(vocab)) - logits);
    }
};

// ---- the jobs ----------------------------------------------------------------------------------------------------------

static Tokens passage(const Engine &engine, const std::string &text, size_t length) {
    size_t once = std::max<size_t>(engine.tokens(text).size() - 1, 1);
    std::string all;
    for (size_t k = 0; k < (length + once - 1) / once; k++) all += text;
    Tokens ids = engine.tokens(all);
    ids.resize(std::min(length, ids.size()));
    return ids;
}

struct Run {
    double prefill = 0, first = 0;
    std::vector<double> steps;
};

static Run time_once(Engine &engine, const Tokens &prompt, const json &suite) {  // as Engine.time_once of llamacpp.py
    int depth = suite.value("depth", 0), turns = suite.value("turns", 1), batch = suite.value("batch", 1);
    int length = suite.at("prompt_tokens"), count = suite.at("new_tokens"), position = 0;
    engine.room(depth + turns * (length + count), batch);
    engine.clear();
    if (depth) engine.read(Tokens(prompt.begin(), prompt.begin() + depth), 0, batch);
    position = depth;
    Run run;
    for (int turn = 0; turn < turns; turn++) {
        auto begin = prompt.begin() + depth + turn * length;
        mark(READING, length);
        double start = now();
        Tokens next = engine.read(Tokens(begin, begin + length), position, batch);
        run.prefill = run.first = now() - start;
        mark(READ, length);
        position += length;
        run.steps.clear();
        for (int k = 0; k < count; k++, position++) {
            start = now();
            std::vector<Tokens> rows;
            for (llama_token token : next) rows.push_back({token});
            next = engine.decode(rows, position);
            run.steps.push_back(now() - start);
            mark(WROTE, k);
        }
    }
    return run;
}

static void measure(const json &job) {
    const json &suite = job.at("suite");
    std::string path = job.at("artifact");
    json machine = describe();  // before we are the load
    machine["llama.cpp"] = llama_print_system_info();
    long before = kilobytes("/proc/self/status", "VmHWM");
    bool cold = forget(path);
    double start = now();
    auto engine = std::make_unique<Engine>(path, job.value("threads", 0));
    double seconds = now() - start;
    emit({{"kind", "machine"}, {"machine", machine}, {"threads", engine->threads}});
    int depth = suite.value("depth", 0), turns = suite.value("turns", 1), length = suite.at("prompt_tokens");
    int needed = depth + turns * (length + suite.at("new_tokens").get<int>());
    if (needed >= engine->context)
        throw Mistake("suite " + suite.at("name").get<std::string>() + " needs " + std::to_string(needed) +
                      " tokens of context, this artifact has " + std::to_string(engine->context));
    Tokens prompt = passage(*engine, job.at("passage"), depth + turns * length);
    int warmups = suite.at("warmups"), repeats = suite.at("repeats");
    for (int number = 0; number < warmups + repeats; number++) {
        Run run = time_once(*engine, prompt, suite);
        if (number < warmups) continue;
        json record = {{"kind", "run"}, {"prefill_s", run.prefill}, {"first_token_s", run.first}, {"steps_s", run.steps}};
        record.update(conditions());
        emit(record);
    }
    emit({{"kind", "memory"},
          {"peak_bytes", kilobytes("/proc/self/status", "VmHWM")},
          {"steady_bytes", kilobytes("/proc/self/status", "VmRSS")},
          {"before_load_bytes", before}});
    json loads = json::array();
    if (!cold) loads.push_back(seconds);
    while ((int) loads.size() < repeats) {
        engine.reset();
        start = now();
        engine = std::make_unique<Engine>(path, job.value("threads", 0));
        loads.push_back(now() - start);
    }
    emit({{"kind", "load"}, {"cold_s", cold ? json(seconds) : json()}, {"load_s", loads}});
}

static size_t whole(const std::string &text) {  // bytes of it without a last character that is still incomplete
    size_t start = text.size();
    while (start > 0 && text.size() - start < 4 && ((unsigned char) text[start - 1] & 0xC0) == 0x80) start--;
    if (start == 0) return text.size();
    unsigned char lead = (unsigned char) text[start - 1];
    size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    return text.size() - start + 1 < length ? start - 1 : text.size();
}

static void answer(const json &job) {
    Engine engine(job.at("artifact"), job.value("threads", 0));
    const json &prompts = job.at("prompts");
    int most = job.at("max_tokens");
    std::vector<std::string> stops = job.at("stop");
    std::vector<Tokens> ids;
    size_t longest = 0;
    for (const json &p : prompts) {
        ids.push_back(engine.tokens(p.value("prefix", "") + p.at("text").get<std::string>()));
        if (ids.back().empty()) throw Mistake("a prompt is empty, and this model has no token to begin a text with");
        if ((int) ids.back().size() + most > engine.context)
            throw Mistake("a prompt of " + std::to_string(ids.back().size()) + " tokens and " + std::to_string(most) +
                          " new ones are more than the " + std::to_string(engine.context) +
                          " tokens this model was trained for; shorten the prompt or ask for fewer tokens");
        longest = std::max(longest, ids.back().size());
    }
    engine.room((int) longest + most, 1);
    const Tokens *before = nullptr;
    for (size_t index = 0; index < ids.size(); index++) {
        const Tokens &prompt = ids[index];
        size_t shared = 0;  // what the prompt before left in the context is not read again
        if (before)
            while (shared + 1 < std::min(prompt.size(), before->size()) && prompt[shared] == (*before)[shared]) shared++;
        engine.cut((int) shared);
        mark(READING, (long) (prompt.size() - shared));
        llama_token token = engine.read(Tokens(prompt.begin() + shared, prompt.end()), (int) shared, 1)[0];
        mark(READ, (long) (prompt.size() - shared));
        std::string text, ended = "length";
        int written = 0;
        for (int position = (int) prompt.size(); written < most; position++) {
            written++;
            mark(WROTE, written);
            if (llama_vocab_is_eog(engine.vocab, token)) {
                ended = "eos";
                break;
            }
            text += engine.piece(token);
            size_t end = std::string::npos;
            for (const std::string &stop : stops) {
                size_t at = stop.empty() ? std::string::npos : text.find(stop);
                if (at != std::string::npos) end = std::min(end, at + stop.size());
            }
            if (end != std::string::npos) {
                text.resize(end);
                ended = "stop";
                break;
            }
            if (written < most) token = engine.read({token}, position, 1)[0];
        }
        text.resize(whole(text));
        emit({{"kind", "answer"}, {"index", index}, {"text", text}, {"prompt_tokens", prompt.size()},
              {"new_tokens", written}, {"ended", ended}});
        before = &prompt;
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
        json job = json::parse(line);
        if (job.value("tethered", false)) std::thread(tether).detach();
        llama_log_set(keep, nullptr);
        llama_backend_init();
        std::string kind = job.at("kind");
        if (job.value("runtime", "llama.cpp") != "llama.cpp") throw Mistake("this harness runs GGUF files by llama.cpp alone");
        if (kind == "measure") measure(job);
        else if (kind == "answer") answer(job);
        else throw Mistake("this harness knows measure and answer, not " + kind);
    } catch (const Mistake &error) {
        emit({{"kind", "error"}, {"message", error.what()}});
        return 2;
    } catch (const std::exception &error) {
        emit({{"kind", "error"}, {"message", error.what()}});
        return 1;
    }
    return 0;
}
