// Alertrules says which alerts of a file of rules fire, by Prometheus' own parser and engine, and how
// names of OpenTelemetry are written in Prometheus by its own translation, the collector's default.
// A request and its answer are JSON on stdin and stdout.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/otlptranslator"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/template"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// A sample each minute, and the rules are looked at each minute.
const step = time.Minute

type request struct {
	Rules   string   // the file's text
	Series  []string // as promtool has them: a{b="c"} 0 1+1x5
	Minutes int      // at which moment to tell what fires
	Names   []struct{ Name, Unit, Kind string }
}

type alert struct {
	Alert       string            `json:"alert"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

type answer struct {
	Rules  []rule   `json:"rules"`
	Firing []alert  `json:"firing"`
	Names  []string `json:"names"`
}

type rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	ForS        float64           `json:"for_s"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

type sample struct {
	t int64
	f float64
}

func (s sample) T() int64                      { return s.t }
func (s sample) F() float64                    { return s.f }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }

// memory is a storage that holds a few series.
type memory []storage.Series

func (m memory) Querier(_, _ int64) (storage.Querier, error) { return querier{m}, nil }

type querier struct{ memory }

func (q querier) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	found := &set{at: -1}
series:
	for _, each := range q.memory {
		for _, matcher := range matchers {
			if !matcher.Matches(each.Labels().Get(matcher.Name)) {
				continue series
			}
		}
		found.series = append(found.series, each)
	}
	return found
}

func (querier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, errors.ErrUnsupported
}

func (querier) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, errors.ErrUnsupported
}

func (querier) Close() error { return nil }

type set struct {
	series []storage.Series
	at     int
}

func (s *set) Next() bool                        { s.at++; return s.at < len(s.series) }
func (s *set) At() storage.Series                { return s.series[s.at] }
func (s *set) Err() error                        { return nil }
func (s *set) Warnings() annotations.Annotations { return nil }

func read(series []string) (memory, error) {
	var all memory
	for _, text := range series {
		names, values, err := parser.ParseSeriesDesc(text)
		if err != nil {
			return nil, err
		}
		var samples []chunks.Sample
		for n, value := range values {
			if !value.Omitted {
				at := time.Duration(n) * step
				samples = append(samples, sample{at.Milliseconds(), value.Value})
			}
		}
		all = append(all, storage.NewListSeries(names, samples))
	}
	return all, nil
}

// firing are the alerts of a rule that fire at a moment, having been looked at since 0.
func firing(engine *promql.Engine, data memory, rule rulefmt.Rule, minutes int) ([]alert, error) {
	ctx := context.Background()
	since := map[string]time.Duration{}
	var found []alert
	for n := 0; n <= minutes; n++ {
		at := time.Duration(n) * step
		query, err := engine.NewInstantQuery(ctx, data, nil, rule.Expr, time.UnixMilli(0).Add(at))
		if err != nil {
			return nil, err
		}
		result := query.Exec(ctx)
		vector, err := result.Vector()
		if err != nil {
			return nil, err
		}
		found = nil
		active := map[string]time.Duration{}
		for _, one := range vector {
			key := one.Metric.String()
			active[key] = at
			if before, ok := since[key]; ok {
				active[key] = before
			}
			if at-active[key] < time.Duration(rule.For) {
				continue
			}
			told, err := tell(ctx, rule, one, at)
			if err != nil {
				return nil, err
			}
			found = append(found, told)
		}
		since = active
	}
	return found, nil
}

func tell(ctx context.Context, rule rulefmt.Rule, one promql.Sample, at time.Duration) (alert, error) {
	told := alert{rule.Alert, one.Metric.Map(), map[string]string{}}
	delete(told.Labels, labels.MetricName)
	data := template.AlertTemplateData(told.Labels, nil, "", one)
	for name, text := range rule.Annotations {
		text = "{{$labels := .Labels}}{{$value := .Value}}" + text
		now := model.Time(at.Milliseconds())
		expander := template.NewTemplateExpander(ctx, text, rule.Alert, data, now, nil, nil, nil)
		expanded, err := expander.Expand()
		if err != nil {
			return told, err
		}
		told.Annotations[name] = expanded
	}
	return told, nil
}

var kinds = map[string]otlptranslator.MetricType{
	"counter":   otlptranslator.MetricTypeMonotonicCounter,
	"gauge":     otlptranslator.MetricTypeGauge,
	"histogram": otlptranslator.MetricTypeHistogram,
}

func run() error {
	var asked request
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		return err
	}
	told := answer{Rules: []rule{}, Firing: []alert{}, Names: []string{}}
	namer := otlptranslator.NewMetricNamer("", otlptranslator.UnderscoreEscapingWithSuffixes)
	for _, each := range asked.Names {
		name, err := namer.Build(otlptranslator.Metric{Name: each.Name, Unit: each.Unit, Type: kinds[each.Kind]})
		if err != nil {
			return err
		}
		told.Names = append(told.Names, name)
	}
	groups, errs := rulefmt.Parse([]byte(asked.Rules), false)
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	data, err := read(asked.Series)
	if err != nil {
		return err
	}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute, EnableAtModifier: true})
	for _, group := range groups.Groups {
		for _, each := range group.Rules {
			found, err := firing(engine, data, each, asked.Minutes)
			if err != nil {
				return fmt.Errorf("%s: %w", each.Alert, err)
			}
			told.Firing = append(told.Firing, found...)
			lasts := time.Duration(each.For).Seconds()
			told.Rules = append(told.Rules, rule{each.Alert, each.Expr, lasts, each.Labels, each.Annotations})
		}
	}
	return json.NewEncoder(os.Stdout).Encode(told)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
