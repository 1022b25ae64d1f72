// The device that the harness runs on, as machine.py and conditions.py see it: what it is, and what it tells of itself while it works.
// What it does not tell is null.
#pragma once

#include <fcntl.h>
#include <glob.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "nlohmann/json.hpp"

using nlohmann::json;

static std::string stripped(const std::string &text) {
    static const std::string SPACE(" \t\r\n|\0", 6);
    size_t first = text.find_first_not_of(SPACE), last = text.find_last_not_of(SPACE);
    return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

static std::string text_of(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream all;
    all << file.rdbuf();
    return stripped(all.str());
}

static std::string value(const std::string &text, const std::string &name, char separator = ':') {  // of the first line "name: value"
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        size_t at = line.find(separator);
        if (at != std::string::npos && stripped(line.substr(0, at)) == name) return stripped(line.substr(at + 1));
    }
    return "";
}

static long bytes(const std::string &path, const std::string &name) {  // of a line "name: 123 kB"
    return atol(value(text_of(path), name).c_str()) * 1024;
}

static std::vector<std::string> matching(const std::string &pattern) {
    glob_t found{};
    std::vector<std::string> paths;
    if (!glob(pattern.c_str(), 0, nullptr, &found)) paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
    globfree(&found);
    return paths;
}

static std::map<std::string, double> numbers(const std::string &pattern) {  // that files hold, by their paths
    std::map<std::string, double> found;
    for (const std::string &path : matching(pattern)) {
        std::string text = text_of(path);
        if (!text.empty()) found[path] = atof(text.c_str());
    }
    return found;
}

static int cores() {  // the physical ones that may be used: siblings counted once, no more than the container's share
    cpu_set_t mask;
    std::set<std::string> found;
    if (!sched_getaffinity(0, sizeof mask, &mask))
        for (int n = 0; n < CPU_SETSIZE; n++)
            if (CPU_ISSET(n, &mask)) {
                std::string own = std::to_string(n), siblings = "/sys/devices/system/cpu/cpu" + own + "/topology/thread_siblings_list";
                found.insert(text_of(siblings).empty() ? own : text_of(siblings));
            }
    int count = found.empty() ? (int) std::thread::hardware_concurrency() : (int) found.size();
    std::istringstream share(text_of("/sys/fs/cgroup/cpu.max"));
    long quota, period;
    if (share >> quota >> period && period > 0) count = std::min(count, (int) (quota / period));
    return std::max(1, count);
}

static json or_null(const std::string &text) { return text.empty() ? json() : json(text); }

static json describe() {
    static const char *FEATURES[] = {"sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16",
                                     "avx512_fp16", "amx_int8", "amx_bf16", "asimd", "neon", "asimdhp", "asimddp", "i8mm", "bf16",
                                     "sve", "sve2", "sme"};
    utsname system{};
    uname(&system);
    std::string info = text_of("/proc/cpuinfo"), cpu = value(info, "model name");
    std::string os = value(text_of("/etc/os-release"), "PRETTY_NAME", '=');
    if (cpu.empty()) cpu = value(info, "Hardware");
    if (cpu.empty()) cpu = text_of("/proc/device-tree/model");
    std::string flags = " " + value(info, "flags") + value(info, "Features") + " ";
    auto has = [&](const std::string &flag) { return flags.find(" " + flag + " ") != std::string::npos; };
    json features = json::array(), load;
    for (const char *feature : FEATURES)
        if (has(feature)) features.push_back(feature);
    double averages[3];
    if (getloadavg(averages, 3) == 3)
        for (double average : averages) load.push_back(std::round(100 * average) / 100);
    os.erase(std::remove(os.begin(), os.end(), '"'), os.end());
    return {{"cpu", cpu.empty() ? system.machine : cpu},
            {"architecture", system.machine},
            {"cores", cores()},
            {"logical_cores", std::max(1L, sysconf(_SC_NPROCESSORS_ONLN))},
            {"features", features},
            {"virtual", has("hypervisor")},
            {"memory_bytes", bytes("/proc/meminfo", "MemTotal")},
            {"memory_available_bytes", bytes("/proc/meminfo", "MemAvailable")},
            {"os", os.empty() ? std::string(system.sysname) + " " + system.release : os},
            {"kernel", system.release},
            {"governor", or_null(text_of("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))},
            {"load_average", load}};
}

class Watch {  // looks at a device from its making until `read`
public:
    json read(double seconds) const {
        return {{"clock_mhz", most(numbers("/sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq"))},
                {"temperature_c", most(numbers("/sys/class/thermal/thermal_zone*/temp"))},
                {"throttled", throttled()},
                {"energy_j", joules(seconds)}};
    }

private:
    using Counts = std::map<std::string, double>;
    static constexpr const char *EVENTS = "/sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count";
    static constexpr const char *ENERGY = "/sys/class/powercap/intel-rapl:?/energy_uj";  // of whole packages; they wrap around
    const Counts events = numbers(EVENTS), energy = numbers(ENERGY);

    static double sum(const Counts &counts) {
        return std::accumulate(counts.begin(), counts.end(), 0.0, [](double all, const auto &one) { return all + one.second; });
    }

    static json most(const Counts &counts) {  // thousandths
        double found = -1e300;
        for (const auto &[path, number] : counts) found = std::max(found, number);
        return counts.empty() ? json() : json(found / 1000);
    }

    json throttled() const {
        std::string firmware = text_of("/sys/devices/platform/soc/soc:firmware/get_throttled");  // Raspberry Pi: bits, 0 to 3 are now
        if (!firmware.empty()) return (strtol(firmware.c_str(), nullptr, 16) & 0xF) != 0;
        return events.empty() ? json() : json(sum(numbers(EVENTS)) > sum(events));
    }

    json joules(double seconds) const {
        double all = 0;
        for (const auto &[path, number] : numbers(ENERGY)) {
            if (!energy.count(path)) continue;
            std::string range = text_of(path.substr(0, path.rfind('/')) + "/max_energy_range_uj");
            double spent = number - energy.at(path);
            all += spent < 0 ? spent + (range.empty() ? 4294967296.0 : atof(range.c_str())) + 1 : spent;
        }
        if (!energy.empty()) return all / 1e6;
        std::optional<double> power = watts();
        return power ? json(*power * seconds) : json();
    }

    static std::optional<double> watts() {  // now, of all meters: microwatts, or milliamperes and millivolts; a battery's are micro
        Counts rails = numbers("/sys/class/hwmon/hwmon*/power*_input");
        std::set<std::string> direct;
        for (auto &[path, number] : rails) number /= 1e6, direct.insert(path.substr(0, path.rfind('/')));
        for (const auto &[path, number] : numbers("/sys/class/hwmon/hwmon*/curr*_input")) {
            size_t name = path.rfind('/') + 1;
            std::string volts = text_of(path.substr(0, name) + "in" + path.substr(name + 4));
            if (!direct.count(path.substr(0, name - 1)) && !volts.empty()) rails[path] = number * atof(volts.c_str()) / 1e6;
        }
        for (const auto &[path, number] : numbers("/sys/class/power_supply/*/current_now")) {
            std::string volts = text_of(path.substr(0, path.rfind('/')) + "/voltage_now");
            if (number != 0 && !volts.empty()) rails[path] = std::abs(number * atof(volts.c_str())) / 1e12;
        }
        return rails.empty() ? std::nullopt : std::optional(sum(rails));
    }
};

static bool forget(const std::string &path) {  // have the system read the file, or all of a split one, from the disk again
    size_t of = path.rfind("-of-");
    bool split = of != std::string::npos && of >= 6 && path.size() == of + 14;
    bool asked = true;
    for (const std::string &part : matching(split ? path.substr(0, of - 5) + "?????" + path.substr(of) : path)) {
        int file = open(part.c_str(), O_RDONLY);
        if (file < 0) continue;
        fsync(file);  // what is not written yet cannot be forgotten
        asked = posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0 && asked;
        close(file);
    }
    return asked;
}

static double bandwidth(int threads) {  // bytes a second that so many threads read together, at best, searching for what is not there
    const size_t available = (size_t) bytes("/proc/meminfo", "MemAvailable"), most = (size_t) 256 << 20;
    const size_t part = std::min(most, available ? available / 4 : most / 8) / threads;
    const std::vector<char> block(part * threads, 1);
    double best = 0;
    for (int turn = 0; turn < 5; turn++) {
        std::vector<std::thread> readers;
        std::atomic<int> found{0};
        auto start = std::chrono::steady_clock::now();
        for (int k = 0; k < threads; k++)
            readers.emplace_back([&, k] { found += memchr(block.data() + k * part, 0, part) != nullptr; });
        for (std::thread &reader : readers) reader.join();
        std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
        if (!found) best = std::max(best, block.size() / spent.count());
    }
    return best;
}
